from .explorer import threshold_explorer as threshold_explorer
from .finder import (
    PictureFinder as PictureFinder,
)
from .grid import (
    ReviewGrid as ReviewGrid,
    open as open,
)
from .opinions import (
    agreement as agreement,
    skills as skills,
    work_done as work_done,
)
from .queues import (
    cell_queue as cell_queue,
    divided_queue as divided_queue,
    flagged_queue as flagged_queue,
    known_answers as known_answers,
    open_session as open_session,
    review_queue as review_queue,
    what_review_cost as what_review_cost,
)
from .session import (
    ReviewSession as ReviewSession,
)
