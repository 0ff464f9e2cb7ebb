from .grid import (
    ReviewGrid as ReviewGrid,
)
from .grid import (
    threshold_explorer as threshold_explorer,
)
from .opinions import (
    agreement as agreement,
)
from .opinions import (
    agreement_by_classes as agreement_by_classes,
)
from .opinions import (
    cohens_kappa as cohens_kappa,
)
from .opinions import (
    disagreement_queue as disagreement_queue,
)
from .opinions import (
    reviewer_agreement as reviewer_agreement,
)
from .opinions import (
    second_queue as second_queue,
)
from .opinions import (
    standing_opinions as standing_opinions,
)
from .queues import (
    audit_session as audit_session,
)
from .queues import (
    cell_queue as cell_queue,
)
from .queues import (
    flagged_queue as flagged_queue,
)
from .queues import (
    open_session as open_session,
)
from .queues import (
    review_queue as review_queue,
)
from .queues import (
    what_review_cost as what_review_cost,
)
from .session import (
    ReviewSession as ReviewSession,
)
