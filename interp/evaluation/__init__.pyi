from .detectors import (
    bag_of_numbers as bag_of_numbers,
    detector_table as detector_table,
    frequent_values as frequent_values,
    in_context as in_context,
    prompted_classifier as prompted_classifier,
)
from .elicitation import Suite as Suite, evaluate as evaluate, in_context_margin as in_context_margin
from .judges import (
    EndpointJudge as EndpointJudge,
    FileJudge as FileJudge,
    LocalJudge as LocalJudge,
    judge_rows as judge_rows,
)
from .misaligned_answers import (
    capability as capability,
    misalignment as misalignment,
    refusal_rate as refusal_rate,
)
from .scorecards import scorecard as scorecard
from .word_judge import WordJudge as WordJudge
