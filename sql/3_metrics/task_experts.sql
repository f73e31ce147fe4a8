-- A row is one expert of one MoE layer for two runs: how much more the texts of the first use it.
--
-- formula: score = mean over the texts of run_a of count / tokens - the same over the texts of run_b: from the roll-ups,
--   k sum of sequence_share_sum / texts; selected where score > tau
-- range: -1 (every token of run_b, none of run_a) to 1; a row for each expert of layers that both runs have, where their
--   layers have as many experts; runs imported without texts have score NULL
-- source: 2510.04694, eq. 3; the default tau is ours
-- needs: usage
-- parameters:
--   run_a: the run of the task's texts; null = every run
--   run_b: the run of general texts; null = every other run
--   tau: what a selected expert's score is above
--   lang: the one language to look at; null = all of each run
--   layers: decoder layers to look at; null = all
-- columns:
--   run_a: the task's run
--   run_b: the run it is compared to
--   layer: the decoder layer's own index
--   expert: logical expert id
--   score: lead in mean activation frequency of a text
--   selected: whether the score is above tau
create or replace macro task_experts(run_a := null, run_b := null, tau := 0, lang := null, layers := null) as table
with run_expert as (
    select
        used.run,
        runs.num_experts,
        used.layer,
        used.expert,
        -- The sum of what is known alone would be too low.
        case when count(used.sequence_share_sum) = count(*) then sum(used.sequence_share_sum) end
        * runs.top_k / nullif(sum(used.sequences), 0) as frequency
    from usage_by_language as used
    inner join runs using (run)
    where
        (lang is null or used.lang = lang)
        and wanted(used.layer, layers)
    group by
        used.run,
        runs.num_experts,
        runs.top_k,
        used.layer,
        used.expert
),

task_lead as (
    select
        a.run as task_run,
        b.run as general_run,
        a.layer,
        a.expert,
        a.frequency - b.frequency as score
    from run_expert as a
    inner join run_expert as b
        on
            a.layer = b.layer
            and a.expert = b.expert
            and a.num_experts = b.num_experts
            and a.run <> b.run
    where
        (run_a is null or a.run = run_a)
        and (run_b is null or b.run = run_b)
)

select
    task_run as run_a,
    general_run as run_b,
    layer,
    expert,
    score,
    score > tau as selected
from task_lead;
