from .containers import (
    sniff as sniff,
)
from .crawl import (
    inspect_files as inspect_files,
)
from .crawl import (
    is_skipped as is_skipped,
)
from .crawl import (
    walk_files as walk_files,
)
from .duplicates import (
    MAX_DISTANCE as MAX_DISTANCE,
)
from .duplicates import (
    affordable_distance as affordable_distance,
)
from .duplicates import (
    confirmed_pairs as confirmed_pairs,
)
from .duplicates import (
    feature_pairs as feature_pairs,
)
from .duplicates import (
    group_near_duplicates as group_near_duplicates,
)
from .duplicates import (
    hubs as hubs,
)
from .duplicates import (
    label_conflicts as label_conflicts,
)
from .duplicates import (
    leaks as leaks,
)
from .duplicates import (
    near_pairs as near_pairs,
)
from .duplicates import (
    safe_distance as safe_distance,
)
from .folder_scan import (
    DEFAULT_CLASSES as DEFAULT_CLASSES,
)
from .folder_scan import (
    SPLIT_FOLDERS as SPLIT_FOLDERS,
)
from .folder_scan import (
    check_usable as check_usable,
)
from .folder_scan import (
    group_duplicates as group_duplicates,
)
from .folder_scan import (
    scan as scan,
)
from .folder_scan import (
    warnings_of as warnings_of,
)
from .images import (
    MAX_BYTES as MAX_BYTES,
)
from .images import (
    MAX_PIXELS as MAX_PIXELS,
)
from .images import (
    REASONS as REASONS,
)
from .images import (
    ImageProblem as ImageProblem,
)
from .images import (
    blurred_thumbnail as blurred_thumbnail,
)
from .images import (
    decode as decode,
)
from .images import (
    encode_jpeg as encode_jpeg,
)
from .images import (
    load_frames as load_frames,
)
from .images import (
    load_image as load_image,
)
from .images import (
    read_bytes as read_bytes,
)
from .inspection import (
    measure as measure,
)
from .inspection import (
    perceptual_hashes as perceptual_hashes,
)
from .quality import (
    feature_map as feature_map,
)
from .quality import (
    next_steps as next_steps,
)
from .quality import (
    outliers as outliers,
)
from .quality import (
    plain_words as plain_words,
)
from .quality import (
    shortcuts as shortcuts,
)
from .screening import (
    load_hashes as load_hashes,
)
from .splits import (
    SPLITS as SPLITS,
)
from .splits import (
    assign_splits as assign_splits,
)
