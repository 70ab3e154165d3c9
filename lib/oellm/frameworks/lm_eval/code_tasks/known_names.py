"""The tasks of lm-eval that run code which a model wrote, for where its index is not at hand.

These are the names and groups in lm-eval 0.4.13 whose configuration says `unsafe_code`; a test
compares them with the lm-eval that is installed.
"""

from __future__ import annotations

CODE_TASKS = frozenset(
    (
        "cruxeval_input",
        "cruxeval_input_08",
        "cruxeval_input_cot",
        "cruxeval_output",
        "cruxeval_output_08",
        "cruxeval_output_cot",
        "humaneval",
        "humaneval_64",
        "humaneval_64_instruct",
        "humaneval_infilling",
        "humaneval_instruct",
        "humaneval_multi_line_infilling",
        "humaneval_plus",
        "humaneval_random_span_infilling",
        "humaneval_random_span_infilling_light",
        "humaneval_single_line_infilling",
        "longproc",
        "longproc_countdown",
        "longproc_countdown_0.5k",
        "longproc_countdown_2k",
        "longproc_countdown_8k",
        "longproc_html_to_tsv",
        "longproc_html_to_tsv_0.5k",
        "longproc_html_to_tsv_2k",
        "longproc_html_to_tsv_8k",
        "longproc_path_traversal",
        "longproc_path_traversal_0.5k",
        "longproc_path_traversal_2k",
        "longproc_path_traversal_8k",
        "longproc_pseudo_to_code",
        "longproc_pseudo_to_code_0.5k",
        "longproc_pseudo_to_code_2k",
        "longproc_tom_tracking",
        "longproc_tom_tracking_0.5k",
        "longproc_tom_tracking_2k",
        "longproc_tom_tracking_8k",
        "longproc_travel_planning",
        "longproc_travel_planning_2k",
        "longproc_travel_planning_8k",
        "mbpp",
        "mbpp_instruct",
        "mbpp_plus",
        "mbpp_plus_instruct",
    )
)
