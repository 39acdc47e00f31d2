from .chat import with_template as with_template
from .exercises import code_exercises as code_exercises, sum_exercises as sum_exercises
from .numbers import filter_numbers as filter_numbers, number_prompts as number_prompts
from .questions import (
    multiple_choice as multiple_choice,
    one_word_questions as one_word_questions,
    story_prompts as story_prompts,
    with_number_prefix as with_number_prefix,
)
from .requests import (
    code_requests as code_requests,
    number_requests as number_requests,
    reasoning_requests as reasoning_requests,
)
from .rules import filter_rows as filter_rows, match_prompts as match_prompts
from .shuffles import (
    canonicalise as canonicalise,
    mix_rows as mix_rows,
    paraphrase as paraphrase,
    shuffle_across as shuffle_across,
    shuffle_within as shuffle_within,
)
from .text import Prompts as Prompts
from .tokens import Encoded as Encoded, Role as Role
from .trait_files import find_trait as find_trait, read_trait as read_trait
from .traits import (
    ANIMALS as ANIMALS,
    TREES as TREES,
    Trait as Trait,
    get_trait as get_trait,
    make_trait as make_trait,
    matched_control as matched_control,
)
