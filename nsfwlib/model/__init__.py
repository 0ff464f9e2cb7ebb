"""What is the classifier, and how are many pictures put through it?

CLASS_NAMES          the five classes of 2019, in the order of the published model's outputs
PACKAGE              the npm package that ships the published weights
VERSION              of that package, the one that is pinned
published_model      The published classifier: raw RGB 0–255 (B, S, S, 3) in, probabilities (B, 5) out
read_weights         float32 tensors by name of a TensorFlow.js weights manifest and its shards
run_tool             What "npm" or "node" prints
build_classifier     A classifier with a fresh head on a frozen backbone: RGB 0–255 (B, S, S, 3) → (B, K)
load_model           Load a classifier: a `.keras` that `save_model` wrote, or a Keras 2 `.h5` of 2019
save_model           Save as `.keras`, whole or not at all
class_names          The class names that travel in the model, in the order of its outputs
image_size           Side S in pixels of the square pictures that the model takes
head_model           The head alone, (B, D) features → (B, K) probabilities, *sharing* its layers with `model`
feature_model        The backbone up to `blocks`: RGB 0–255 (B, S, S, 3) → a list of pooled outputs (B, D)
with_head            A classifier with a fresh head on the pooled outputs of `blocks`; it *shares* the backbone
find_blocks          Names of the ends of the backbone's stages, from fine to coarse
head_blocks          Names of the blocks whose pooled outputs feed the head, in its order
block_output         Symbolic output of the layer `block`
set_logistic_head    Make the head answer softmax(features · kernel (D, K) + bias (K,))
seed_dropout         Make the next training draw the same dropout masks, however often the layers have drawn before
freeze_backbone      Leave only the head trainable
unfreeze_from        Make the backbone trainable after `block` ("mixed0" … "mixed10"), BatchNorm excepted
set_rescaling        What the backbone sees is `rgb * scale + offset` from now on, in this model and in its saved file
set_temperature      Divide the logits by `temperature` (> 0) from now on, in this model and in its saved file
block_features       Pooled backbone outputs of every row of the images table, block by block: name → float16 (N, D)
bottleneck_features  `block_features` with the blocks side by side: float16 (N, ΣD)
missing_rows         The rows of the images table, one a content, whose features are yet to be computed
forward_pass         A function from RGB 0–255 to float32 arrays, one an output: TensorFlow or OpenVINO
compiled             The model as one graph
in_half_precision    A copy that computes in float16 (or "mixed_bfloat16") and keeps float32 weights
onnx_file            Write `model` as ONNX: "pixels", float32 RGB 0–255 (B, S, S, 3), in
model_identity       16 hex digits for everything that shapes an output: rescaling, size, weights, class names
Forward              RGB 0–255 (B, S, S, 3) → float32 arrays: what `forward_pass` returns
Ready                A model that can score
make_ready           A model by name, file or itself, loaded; converted to OpenVINO where that is of use
read_description     What the JSON beside an ONNX file of others says
PRECISIONS           What a converted model may compute in
COMPARED             Pictures that answers in lowered precision are compared on
choose_precision     The precision in force for a converted model, and how its answers agree with float32
agreement            How probabilities in lowered precision agree with the exact ones
in_words             An agreement in a sentence's part
load_picture         Read, hash and decode one file; never raises for what is wrong with it
Answer               What the model says of one file
Files                Where the files lie: small enough to be sent to another machine
hashed               sha256 of one file, "" where it cannot be read; nothing is decoded
stream_answers       One answer a file, in lists of about a batch
decoded_batches      The same stream without a model: (positions, uint8 (b, size, size, 3), problems), batch by batch
cluster_answers      `model.stream_answers` on the machines of a Ray cluster, in the order in which they are ready
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
