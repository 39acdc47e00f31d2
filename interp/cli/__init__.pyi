from .feature_files import (
    card_file as card_file,
    lean_files as lean_files,
    shift_files as shift_files,
    train_sae_file as train_sae_file,
)
from .gradient_files import (
    ledger_file as ledger_file,
    score_file as score_file,
)
from .step_files import (
    evaluate_file as evaluate_file,
    export_file as export_file,
    filter_file as filter_file,
    generate_file as generate_file,
    import_file as import_file,
    open_model as open_model,
    read_vector as read_vector,
    train_student_file as train_student_file,
)
