"""What is in the folders, and what is wrong with it? From a folder of images to the images table.

SPLITS                 train, val and test, in this order
REASONS                Why a file is left out → what that means, in a sentence
MAX_BYTES              Files larger than that are not read
MAX_PIXELS             Pictures of more are not decoded, unless one says so
MOST_PIXELS            What one may say at most
MAX_DISTANCE           Bits of 64: beyond it even the second look finds more chance than copies
ImageProblem           A file that cannot be used
scan                   Read `<class>/**` or `<split>/<class>/**` → the images table
warnings_of            The named warnings of a scan → columns name, message
DECISION_WORDS         What a line of the journal says but a class
may_be_class           Whether a class of this name can be told from a decision, however a person writes it
check_class_names      A ValueError for names that tables or the journal use themselves
check_usable           The classes that can be trained on, sorted
layout_of              How the folders of an images table are read: "classes" (class/…) or "splits" (split/class/…)
group_duplicates       Near-duplicate groups of the images table → int64 Series "group" with its index
assign_splits          Fill `split` with train, val and test: whole groups, stratified by class → a new table
lot                    A number from 0 to 1 that depends on the key alone
label_conflicts        Rows of the images table whose group carries more than one given label, group by group
leaks                  Near-duplicates in different splits → one row a pair
hubs                   Pictures that turn up again and again: blank pages, "image removed" placeholders, logos
outliers               Usable pictures in the outermost `percentile` of a measure
shortcuts              How well does an attribute that is no content predict the class?
next_steps             What to do next, a sentence each, most pressing first; computed from the tables of notebook 01
plain_words            Steps as a numbered list, one a line
feature_map            Two-dimensional map of bottleneck features (N, D)
load_image             Decode a file or its bytes → uint8 (H, W, 3), upright, sRGB, on white
VIDEO_NAMES            How names of videos end
is_video               Whether a file that begins so is a video
load_video             Evenly spaced frames of a video, upright, with their times
load_frames            Evenly sampled frames of an animated GIF, WebP, APNG or AVIF, of anything else the picture
blurred_thumbnail      A small, blurred picture for display → uint8 (h, w, 3), at most `size` on the long side
encode_jpeg            uint8 (H, W, 3) or (H, W) → JPEG bytes
read_bytes             All bytes of a regular file; a FIFO, device or socket is refused without waiting for it
sniff                  The format by content → (format, ""), or a reason and its detail if it is none of ours
load_hashes            Read a list of hashes, one a line
inspect_files          Inspect files in parallel → (position in `paths`, row of `data.inspect`), as they are done
is_skipped             Hidden, or left behind by an operating system
purge_thumbnails       Remove the small grey pictures from the scan's cache → how many there were
walk_files             Every file below `data_dir` → (relative path, problem, detail), in no particular order
measure                Perceptual hashes, quality measures and the thumbnail of an RGB picture
group_near_duplicates  Connect near-duplicates → int64 (N,): group numbers 0…G-1 in order of appearance
near_pairs             All (i, j) with a[i] and b[j] within `max_distance` bits → two int64 arrays
feature_pairs          Pairs (left < right) among each row's nearest neighbours whose cosine is `min_cosine` or more
confirmed_pairs        The second look: which pairs of positions are alike in their thumbnails → bool (P,)
safe_distance          The largest distance at which chance gives an image at most 0.01 neighbours among these hashes
affordable_distance    The largest distance with at most `budget` candidates per image: each costs a second look
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
