"""Every setting, with its meaning, unit and default.

A file in `configs/` changes a few settings. On the command line, any can be changed:
`--config.train.learning_rate=3e-4`, `--config.train.patch_sizes="(64, 128)"`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ml_collections


def default_config() -> "ml_collections.ConfigDict":
    """Returns the paper's recipe at quality 20, on the packaged photographs."""
    # Imported here, since restoring works without ml_collections.
    import ml_collections

    config = ml_collections.ConfigDict()

    # Name of the run, and folder for its files. An empty workdir stands for "runs/NAME".
    config.name = "dmcnn"
    config.workdir = ""
    # Seed of everything random: initial weights, validation images, order, crops, flips, qualities.
    config.seed = 0
    # Weights to start from: a bundled name, a .safetensors file or a workdir. Empty: random ones.
    config.init_from = ""

    # JPEG quality, 1 to 100, of training pairs, validation and evaluation. The network "photo" is
    # trained on `quality_range`, and measured at fixed qualities.
    config.quality = 20
    # Lowest and highest quality of training pairs, drawn uniformly; validation and evaluation still
    # use `quality`. Empty: training uses `quality` as well.
    config.quality_range = ()
    # Probability, 0 to 1, that a training pair has a random quantisation table like those of
    # cameras and other encoders (`jpeg.varied_table`) instead of the standard one.
    config.random_table_prob = 0.0

    # The network: `name`, a key of dmcnn_jax.models.MODELS, and fields of that class, which its
    # docstring explains.
    config.model = model = ml_collections.ConfigDict()
    model.name = "dmcnn"
    model.features = 64  # F: channels at full size; 2F at half, 4F at quarter size
    model.dct_features = ml_collections.config_dict.placeholder(int)  # in the DCT branch; None: 2F
    model.dtype = "float32"  # dtype of the pixel branch: float32 or bfloat16
    # The paper's design choices, each of which can be changed or switched off.
    model.dilations = (2, 4, 8)  # of layers 7 to 9 of the pixel branch
    model.dct_dilations = (2, 4, 8)  # of layers 4 to 6 of the DCT branch
    model.dct_branch = True
    model.multi_scale = True  # estimates at half and quarter size in the loss
    model.rectifier = "interval"  # or "leaky", "decoded", "none"
    model.margin = 0.25  # ε, by which the rectifier's intervals are widened, grey levels
    model.residual = 0.5  # initial value of r
    model.learn_residual = True  # False: r stays at `residual`
    model.theta = 0.618  # θ: weight of each scale in the loss, relative to the next finer one
    model.dct_weight = 0.9  # λ: weight of the DCT branch's estimate in the loss
    model.relative_loss = False  # True: divide each patch's error by that of its JPEG
    # Whether the network also reads the quantisation table, so that one serves every quality.
    model.condition_on_table = False

    config.data = data = ml_collections.ConfigDict()
    # Training images: "packaged" (scikit-image's photographs), a folder of images, a pack written
    # by tools/pack_images.py, or "tfds:NAME", a TFDS data set with images ("tfds:NAME@SPLIT" for
    # a split other than "train").
    data.source = "packaged"
    # Folder of TFDS data sets; empty: TFDS's default, ~/tensorflow_datasets.
    data.data_dir = ""
    # Place where training pairs are made. "device": in the training step, from tiles in memory.
    # "tf.data": by TensorFlow, which reads images when needed. "auto": "tf.data" for "tfds:"
    # sources, "device" for others.
    data.pipeline = "auto"
    # Validation images, named as in `source`: all of these are used, or `validation_images` of a
    # TFDS data set. Empty: `validation_images` of `source`, but at most a third of all, are set
    # aside, and not trained on.
    data.validation = ""
    data.validation_images = 24
    # Content of tiles: "studio" is luma of 16 to 235 (MATLAB's rgb2ycbcr, used by papers), "full"
    # luma of 0 to 255 (used by JPEG files), both BT.601; "rgb" is for the networks
    # "chroma" and "photo".
    data.luma = "studio"
    # For the network "chroma": weights that restore the luma which guides it (a bundled name, a
    # weights file or a workdir).
    data.guide = "dmcnn-small-qf20"
    # For the networks "chroma" and "photo": chroma subsampling, "4:2:0", "4:2:2" or "4:4:4", drawn
    # uniformly from this list for each step. The first one is used for validation.
    data.subsampling = ("4:2:0",)
    # Side of the square tiles that images are cut into, pixels; patches are cropped from tiles.
    data.tile = 256
    # Largest shorter side of images, pixels. Larger images are reduced to it, which removes most
    # artifacts of images that were JPEGs themselves. 0: images are never reduced.
    data.max_short_side = 512
    # Total size of all tiles, bytes, up to which they are kept on the device. Larger sets stay in
    # the host's memory and are sent batch by batch.
    data.device_bytes = 8 * 2**30

    config.train = train = ml_collections.ConfigDict()
    # For each stage: side of the patches, pixels (a multiple of 8, at most `data.tile`); number of
    # patches in a batch (one number may stand for all stages); and largest number of steps. A stage
    # ends earlier if it converges (see `schedule`).
    train.patch_sizes = (56, 112, 168, 224)
    train.batch_sizes = (80,)
    train.stage_steps = (400_000, 200_000, 200_000, 200_000)
    # Whether all steps of a stage use the same batch, as optimizers with a line search need
    # ("lbfgs").
    train.fixed_batch = False
    # The optimizer: "adam", "sgd" (with `momentum`), "muon" (with Nadam for everything except
    # convolution kernels) or "lbfgs". `learning_rate` is the highest rate of the schedule; use 1
    # for "lbfgs", whose line search finds the length of each step.
    train.optimizer = "adam"
    train.learning_rate = 1e-3
    train.momentum = 0.9
    train.weight_decay = 0.0
    # Largest global norm of the gradient; a longer gradient is scaled down to it. 0: no limit.
    train.clip_norm = 0.0
    # Decay of the exponential moving average of the weights, used for evaluation and release.
    train.ema_decay = 0.999
    # Whether the network for photographs also trains its first part, the network of luma.
    train.unfreeze = False
    # Steps between validations (each with a checkpoint), between additional checkpoints (0: none),
    # and between lines of the log.
    train.validate_every = 1000
    train.checkpoint_every = 0
    train.log_every = 50

    config.schedule = schedule = ml_collections.ConfigDict()
    # "plateau" (the paper's) multiplies the learning rate by `factor` when the validation loss has
    # not fallen by the relative amount `rtol` for `patience` validations. A stage has converged
    # when that would happen again after `reductions` such reductions; the next stage starts at
    # `train.learning_rate` times `restart`. "cosine" lowers the rate along a cosine over all steps,
    # to `min_lr_ratio` times `train.learning_rate`; stages never converge early. "constant" keeps
    # the rate, and lowers it to 0 over the last `cooldown` of all steps, as 1 - √(share of the
    # cooldown done). A run whose `train.stage_steps` are changed to N when N · (1 - `cooldown`)
    # steps are done begins to cool down there. "clock" is "constant" by the clock: the run takes
    # `minutes`, which `train.stage_steps` divide among stages, and warms up over the first 2 % of
    # them. It validates, and saves a checkpoint, every `validate_minutes`. The number of steps
    # follows from the speed of the machine.
    schedule.name = "plateau"
    schedule.factor = 1 / 3
    schedule.patience = 5
    schedule.rtol = 1e-3
    schedule.reductions = 2
    schedule.restart = 1.0
    schedule.min_lr_ratio = 0.01
    schedule.cooldown = 0.2
    # Steps at the start over which the learning rate rises linearly from 0.
    schedule.warmup_steps = 0
    # Length of a run by the clock, and time between its validations, minutes.
    schedule.minutes = 5.0
    # "wall", or "processor" for processor time divided by the number of cores: on a CPU shared
    # with other work, runs of equal minutes then do equal work, in which validation doesn't count.
    schedule.clock = "wall"
    schedule.validate_minutes = 1.0

    config.evaluate = evaluate = ml_collections.ConfigDict()
    # Folder of images to evaluate on, or "packaged"; empty: the validation images.
    evaluate.images = ""
    # Range of the luma of colour images, "studio" (used by papers) or "full", as in `data.luma`.
    # Gray images are used as they are.
    evaluate.luma = "studio"
    # Folder for results.json; empty: the workdir.
    evaluate.output = ""
    # HTML page to write, with all images and a slider between JPEG, restored and original. Empty:
    # none.
    evaluate.gallery = ""
    # Whether to project the output into the quantisation intervals of the JPEG before measuring it.
    evaluate.project = False
    # Whether to average over the eight rotations and reflections of each image.
    evaluate.ensemble = False
    return config
