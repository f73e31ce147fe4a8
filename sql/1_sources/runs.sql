-- A row is one run: one traced model x corpus x settings.
--
-- formula: the run record's own fields
-- range: one row for every file of runs/
-- source: ours
-- needs: run records
-- columns:
--   run: the run's name
--   run_sha256: digest of the record, provenance left out
--   model_id: the model as it was asked for
--   revision: the model's revision
--   config_sha256: digest of the model's configuration
--   family: the model's type, as in its configuration
--   num_layers: decoder layers, dense ones included
--   num_experts: E, routed experts of a MoE layer
--   top_k: k, experts a token is sent to
--   dtype: the type the model ran in
--   parameters: parameters of the whole model
--   parameters_per_expert: parameters of one routed expert
--   scoring: softmax or sigmoid, how logits become router scores
--   normalized: whether the gate weights of a token sum to the scale
--   scale: the routed scaling factor
--   selection_bias: whether experts are selected with a bias that weights do not carry
--   pivot_lang: the pivot language, that others are compared to
--   parallel: whether the same text id in two languages means the same text
--   special_token_ids: token ids that are no text, such as those that begin and end one; NULL where nobody knows
--   nominal_tokens: whether only activation frequencies are known, so that tokens and counts stand for no real ones
--   tables: names of the tables that were traced
create or replace table runs (
    run varchar,
    run_sha256 varchar,
    model_id varchar,
    revision varchar,
    config_sha256 varchar,
    family varchar,
    num_layers integer,
    num_experts integer,
    top_k integer,
    dtype varchar,
    parameters bigint,
    parameters_per_expert bigint,
    scoring varchar,
    normalized boolean,
    scale double,
    selection_bias boolean,
    pivot_lang varchar,
    parallel boolean,
    special_token_ids integer [],
    nominal_tokens boolean,
    tables varchar []
);
