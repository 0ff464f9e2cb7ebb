from .current import (
    current_labels as current_labels,
)
from .current import (
    journal_in_use as journal_in_use,
)
from .current import (
    what_changed as what_changed,
)
from .folders import (
    apply_decisions as apply_decisions,
)
from .folders import (
    roll_back as roll_back,
)
from .heads import (
    components as components,
)
from .heads import (
    fit_head as fit_head,
)
from .heads import (
    out_of_fold_probs as out_of_fold_probs,
)
from .heads import (
    project as project,
)
from .issues import (
    estimated_errors as estimated_errors,
)
from .issues import (
    find_label_issues as find_label_issues,
)
from .issues import (
    judge_labels as judge_labels,
)
from .issues import (
    noise_matrix as noise_matrix,
)
from .issues import (
    out_of_sample_probs as out_of_sample_probs,
)
from .journal import (
    LABELLING as LABELLING,
)
from .journal import (
    Replay as Replay,
)
from .journal import (
    append_decisions as append_decisions,
)
from .journal import (
    decisions_in_force as decisions_in_force,
)
from .journal import (
    new_action as new_action,
)
from .journal import (
    read_journal as read_journal,
)
from .journal import (
    standing as standing,
)
from .neighbours import (
    find_neighbours as find_neighbours,
)
from .neighbours import (
    nearest as nearest,
)
