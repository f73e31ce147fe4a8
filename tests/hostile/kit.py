"""All hostile stores, by name."""

from __future__ import annotations

from tests.hostile import contents, damaged, links, names, numbers, paths
from tests.hostile.hostile import HARMLESS, Hostile

UNCHANGED = "unchanged"

HOSTILE: dict[str, Hostile] = {
    UNCHANGED: Hostile(lambda _: None, HARMLESS),
    **{name: store for kit in (names, paths, links, numbers, damaged, contents) for name, store in kit.stores()},
}

# One or two of a kind, which the suite has time for; `MOETRACE_HOSTILE=all` tries all.
USUAL = tuple(
    """
    run_named_sql run_named_terminal run_file_named_sql language_named_sql_in_run language_named_sql_in_commit
    language_named_sql_in_index language_folder_named_sql language_folder_named_no_unicode pivot_named_sql
    model_named_to_be_obeyed model_named_for_a_terminal model_named_no_unicode fields_named_sql
    provenance_no_unicode_without_copy corpus_of_languages_only texts_named_for_a_terminal
    path_up path_absolute path_of_another_language path_of_another_table path_a_url path_as_sql_says_it
    path_short_number path_twice path_a_pattern index_path_up index_path_a_url index_of_another_run
    record_of_another_shard record_of_another_run run_record_of_another_run commit_of_an_unknown_run
    commit_under_another_record commit_file_numbered_'0' commit_file_numbered_'000000'
    pipe_at_store.json pipe_at_runs_run.json pipe_at_routes_run=run_lang=deu_Latn_00000.parquet
    loop_at_runs_run.json dangling_link_at_runs_run.json folder_at_runs_run.json
    link_to_a_device_at_runs_run.json link_to_a_device_at_routes_run=run_lang=deu_Latn_00000.parquet
    link_to_the_same_at_runs_run.json link_to_the_same_at_routes_run=run_lang=deu_Latn_00000.parquet
    linked_folder_runs linked_folder_commits linked_folder_routes linked_folder_compact_run=run linked_folder_claims
    linked_folder_quarantine file_in_the_place_of_commits file_in_the_place_of_compact_run=run linked_staging
    link_in_a_folder_of_staging
    model_with_top_k_5 model_with_top_k_0 model_with_top_k_true model_with_top_k_1.5 model_with_top_k_2_to_the_70
    model_with_top_k_text model_with_layers_unsorted model_with_layers_none model_with_layers_100000
    model_with_layers_4096_of_65536_experts commit_with_tokens_6014 commit_with_version_true
    commit_with_created_at_the_end_of_time file_with_rows_2_to_the_53 file_with_bytes_2_to_the_53_unchecked
    format_true format_99 format_upgraded_from_99 planned_2_to_the_53_shards routing_with_scale_none
    deep_at_runs_run.json seventy_deep_at_runs_run.json no_utf8_at_runs_run.json
    a_hundred_gigabytes_at_runs_run.json a_hundred_gigabytes_at_compact_run=run.json a_key_twice_at_runs_run.json
    NaN_at_runs_run.json 1e999_at_runs_run.json one_letter_at_runs_run.json run_without_tables run_without_num_experts
    run_without_copy run_without_either claim_deep claim_of_the_future plan_deep failed_deep stray_thumbs
    stray_hidden_record stray_terminal
    usage_text usage_with_texts usage_with_no_rows usage_with_nan routes_with_a_million_rows routes_with_lists
    compacted_texts
    """.split()
)
