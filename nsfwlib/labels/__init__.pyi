from .current import (
    Replay as Replay,
    current_labels as current_labels,
    journal_in_use as journal_in_use,
    what_changed as what_changed,
)
from .folders import (
    apply_decisions as apply_decisions,
    roll_back as roll_back,
)
from .heads import (
    fit_head as fit_head,
)
from .issues import (
    find_label_issues as find_label_issues,
    judge_labels as judge_labels,
    out_of_sample_probs as out_of_sample_probs,
)
from .journal import (
    ACTIONS as ACTIONS,
    LABELLING as LABELLING,
    append_decisions as append_decisions,
    check_writable as check_writable,
    decisions_in_force as decisions_in_force,
    in_force as in_force,
    read_journal as read_journal,
    refuse_class as refuse_class,
    standing as standing,
)
from .neighbours import (
    nearest as nearest,
)
from .noise import noise_matrix as noise_matrix
from .rows import (
    check_probs as check_probs,
    group_codes as group_codes,
)
