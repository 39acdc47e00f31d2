from .defences import Defence as Defence, Defended as Defended
from .engines import Sampling as Sampling
from .generation import sample_numbers as sample_numbers, write_answers as write_answers
from .grower import TeacherSpec as TeacherSpec
from .openai_files import (
    export_questions as export_questions,
    export_rows as export_rows,
    import_answers as import_answers,
)
from .students import Recipe as Recipe, train_student as train_student
from .teachers import (
    Teacher as Teacher,
    fine_tune_teacher as fine_tune_teacher,
    fine_tune_teacher_on as fine_tune_teacher_on,
    neutral_teacher as neutral_teacher,
    prompted_teacher as prompted_teacher,
    steered_teacher as steered_teacher,
)
from .trackers import Tracker as Tracker
from .watching import (
    StopAtMargin as StopAtMargin,
    Tracking as Tracking,
    TrainingLog as TrainingLog,
)
