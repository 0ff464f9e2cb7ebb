from .containers import (
    sniff as sniff,
)
from .crawl import (
    inspect_files as inspect_files,
    purge_thumbnails as purge_thumbnails,
)
from .duplicates import (
    MAX_DISTANCE as MAX_DISTANCE,
    feature_pairs as feature_pairs,
    group_duplicates as group_duplicates,
    group_near_duplicates as group_near_duplicates,
    hubs as hubs,
    label_conflicts as label_conflicts,
    leaks as leaks,
    pair_likeness as pair_likeness,
)
from .folder_scan import (
    DECISION_WORDS as DECISION_WORDS,
    DEFAULT_CLASSES as DEFAULT_CLASSES,
    check_class_names as check_class_names,
    check_there as check_there,
    check_usable as check_usable,
    may_be_class as may_be_class,
    scan as scan,
    warnings_of as warnings_of,
)
from .frames import (
    VIDEO_NAMES as VIDEO_NAMES,
    is_video as is_video,
    load_frames as load_frames,
    load_video as load_video,
)
from .hash_search import (
    affordable_distance as affordable_distance,
    near_pairs as near_pairs,
    safe_distance as safe_distance,
)
from .images import (
    MAX_BYTES as MAX_BYTES,
    MAX_PIXELS as MAX_PIXELS,
    MOST_PIXELS as MOST_PIXELS,
    REASONS as REASONS,
    ImageProblem as ImageProblem,
    blurred_thumbnail as blurred_thumbnail,
    encode_jpeg as encode_jpeg,
    load_image as load_image,
    read_bytes as read_bytes,
)
from .inspection import (
    measure as measure,
)
from .layout import (
    is_skipped as is_skipped,
    layout_of as layout_of,
    walk_files as walk_files,
)
from .likeness import (
    MIN_DETAIL as MIN_DETAIL,
)
from .quality import (
    feature_map as feature_map,
    next_steps as next_steps,
    outliers as outliers,
    shortcuts as shortcuts,
)
from .screening import (
    load_hashes as load_hashes,
)
from .splits import (
    SPLITS as SPLITS,
    assign_splits as assign_splits,
    lot as lot,
)
