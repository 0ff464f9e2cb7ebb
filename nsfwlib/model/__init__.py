"""What is the classifier, and how are many pictures put through it?

BACKBONES            TODO
CLASS_NAMES          the order of its outputs
PACKAGE              MIT licence
VERSION              MIT licence
published_model      The published classifier: raw RGB 0–255 (B, S, S, 3) in, probabilities (B, 5) out
load_backbone        Load the published backbone and its rescaling into a classifier; returns all published tensors
build_classifier     A classifier with a fresh head on a frozen backbone: uint8 or float RGB 0–255 (B, S, S, 3) → (B,
load_model           Load a classifier: a `.keras` that `save_model` wrote, or a Keras 2 `.h5` of 2019
resolve_model        A classifier of this kit's kind: loaded, fetched, or a foreign one wrapped with its class names
save_model           Save as `.keras`, whole or not at all
class_names          The class names that travel in the model, in the order of its outputs
image_size           Side S in pixels of the square pictures that the model takes
head_model           The head alone, (B, D) features → (B, K) probabilities, *sharing* its layers with `model`
head_dense_layers    The head's Dense layers, from the features to the logits
feature_model        The backbone up to `blocks`: RGB 0–255 (B, S, S, 3) → a list of average-pooled outputs (B, D_bloc
last_block           Name of the last block of the backbone
block_output         Symbolic output of the layer `block`
reset_head           Fresh initial weights for the head (Glorot and Bengio 2010
seed_dropout         Make the next training draw the same dropout masks, however often the layers have drawn before
freeze_backbone      Leave only the head trainable
unfreeze_from        Make the backbone trainable after `block` ("mixed0" … "mixed10"), BatchNorm excepted
set_rescaling        What the backbone sees is `rgb * scale + offset` from now on, in this model and in its saved file
set_temperature      Divide the logits by `temperature` (> 0) from now on, in this model and in its saved file
block_features       Pooled backbone outputs of every row of the images table, block by block: name → float16 (N, D)
bottleneck_features  `block_features` with the blocks side by side: float16 (N, ΣD)
missing_rows         The rows of the images table, one a content, whose features are yet to be computed
forward_pass         A function from RGB 0–255
compiled             The model as one graph
in_half_precision    A copy that computes in float16 (or "mixed_bfloat16") and keeps float32 weights
onnx_file            Write `model` as ONNX: "pixels", float32 RGB 0–255 (B, S, S, 3), in; `outputs` as in `forward_pas
model_identity       16 hex digits for everything that shapes an output: rescaling, picture size, the weights up to it
Forward              TODO
Ready                A model that can score
make_ready           `resolve_model`, or what was noted of the same name or file when it was converted
Answer               What the model says of one file
Files                Where the files lie: small enough to be sent to another machine
hashed               Read and hash one file, decode nothing
stream_answers       One answer a file, in lists of about a batch
decoded_batches      The same stream without a model: (positions, uint8 (b, size, size, 3), problems), batch by batch
cluster_answers      `model.stream_answers` on the machines of a Ray cluster, in the order in which they are ready
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
