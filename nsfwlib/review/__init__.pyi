from .grid import (
    ReviewGrid as ReviewGrid,
    threshold_explorer as threshold_explorer,
)
from .opinions import (
    agreement as agreement,
    agreement_by_classes as agreement_by_classes,
    cohens_kappa as cohens_kappa,
    disagreement_queue as disagreement_queue,
    reviewer_agreement as reviewer_agreement,
    second_queue as second_queue,
    standing_opinions as standing_opinions,
)
from .queues import (
    audit_session as audit_session,
    cell_queue as cell_queue,
    flagged_queue as flagged_queue,
    open_session as open_session,
    review_queue as review_queue,
    what_review_cost as what_review_cost,
)
from .session import (
    ReviewSession as ReviewSession,
)
