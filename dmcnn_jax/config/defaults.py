"""Every setting there is, with its meaning, unit and default.

A file in `configs/` changes a few of them, and anything can be changed on the command line:
`--config.train.learning_rate=3e-4`, `--config.train.patch_sizes="(64, 128)"`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ml_collections


def default_config() -> "ml_collections.ConfigDict":
    """The paper's recipe at quality 20, on the packaged photographs."""
    # Only those who make a configuration need it: evaluating and restoring do without.
    import ml_collections

    config = ml_collections.ConfigDict()

    # Of the run. Its files lie in `workdir`; empty: "runs/" and the name.
    config.name = "dmcnn"
    config.workdir = ""
    # Everything random follows from it: first weights, order, crops, flips, qualities.
    config.seed = 0
    # Weights to start from: a bundled name, a .safetensors file or a workdir. Empty: random ones.
    config.init_from = ""

    # JPEG quality, 1 to 100, of training pairs, validation and evaluation. With `quality_range`, a
    # pair (lowest, highest), training pairs are drawn uniformly from it, and `quality` is that of
    # validation and evaluation.
    config.quality = 20
    config.quality_range = ()
    # Share of training pairs, 0 to 1, whose quantisation table is not the standard one of their
    # quality but like those of cameras and of other encoders (`jpeg.varied_table`).
    config.random_table_prob = 0.0

    # The network: `name`, a key of dmcnn_jax.models.MODELS, and attributes of that module, which
    # says more of them.
    config.model = model = ml_collections.ConfigDict()
    model.name = "dmcnn"
    model.features = 64  # F: channels at full size; 2F and 4F below
    model.dct_features = ml_collections.config_dict.placeholder(int)  # None: 2F
    model.dtype = "float32"  # what the pixel branch computes in: float32 or bfloat16
    # What the paper claims, to be switched off or altered.
    model.dilations = (2, 4, 8)  # of layers 7 to 9 of the pixel branch
    model.dct_dilations = (2, 4, 8)  # of layers 4 to 6 of the DCT branch
    model.dct_branch = True
    model.multi_scale = True  # estimates at half and quarter size in the loss
    model.rectifier = "interval"  # or "leaky", "decoded", "none"
    model.margin = 0.25  # what the rectifier's intervals are widened by, grey levels
    model.residual = 0.5  # r's first value, and whether it is learned or stays
    model.learn_residual = True
    model.theta = 0.618  # weight of a scale against the next finer one in the loss
    model.dct_weight = 0.9  # λ, of the DCT branch's estimate in the loss
    model.relative_loss = False  # errors count relative to the JPEG's, patch by patch, as in PSNR
    # Whether it is told the quantisation table, for one network at every quality.
    model.condition_on_table = False

    config.data = data = ml_collections.ConfigDict()
    # Where training images come from: "packaged" (scikit-image's photographs), a folder of images,
    # a pack written by tools/pack_images.py, or "tfds:NAME", a TFDS data set with images
    # ("tfds:NAME@SPLIT" if it isn't "train").
    data.source = "packaged"
    # Where TFDS data sets lie; empty: TFDS's own place, ~/tensorflow_datasets.
    data.data_dir = ""
    # What makes pairs of them. "device": tiles, held in memory, become pairs inside the training
    # step. "tf.data": images are read as they are needed; needs TensorFlow. "auto": "tf.data" for
    # tfds:, "device" for the rest.
    data.pipeline = "auto"
    # Where validation images come from, likewise; empty: `validation_images` of the source are set
    # aside. Of "tfds:" `validation_images` are taken, of others all.
    data.validation = ""
    data.validation_images = 24
    # What tiles hold. Luma of BT.601: "studio" (16 to 235, MATLAB's rgb2ycbcr, the protocol's) or
    # "full" (0 to 255, what JPEG files hold). Or "rgb", for the network of chroma.
    data.luma = "studio"
    # Of the network of chroma: what restores the luma that guides it (a bundled name, a weights
    # file or a workdir), and how chroma is subsampled ("4:2:0", "4:2:2", "4:4:4"), drawn for each
    # step, of as many as are named; the first is that of validation.
    data.guide = "dmcnn-small-qf20"
    data.subsampling = ("4:2:0",)
    # Side of the square tiles that images are cut into, pixels; patches are cropped out of tiles.
    data.tile = 256
    # Images whose shorter side is longer are reduced to it first, pixels: it removes the artifacts
    # of images that were JPEGs themselves. 0: never.
    data.max_short_side = 512
    # Tiles are kept on the device up to so many bytes, else sent to it batch by batch.
    data.device_bytes = 8 * 2**30

    config.train = train = ml_collections.ConfigDict()
    # Stages: side of the patches (multiples of 8, at most the tile), their number in a batch (one
    # for all, or one a stage), and the most steps of each stage. A stage also ends when its
    # learning rate has converged (see `schedule`).
    train.patch_sizes = (56, 112, 168, 224)
    train.batch_sizes = (80,)
    train.stage_steps = (400_000, 200_000, 200_000, 200_000)
    # Whether all steps of a stage have one and the same batch, as optimizers expect that look for
    # the best step along a line ("lbfgs").
    train.fixed_batch = False
    # The optimizer: "adam", "sgd" (with momentum), "muon" (Nadam for all but convolutions), or
    # "lbfgs". Learning rate: at the start; of "lbfgs", which finds its own, 1.
    train.optimizer = "adam"
    train.learning_rate = 1e-3
    train.momentum = 0.9
    train.weight_decay = 0.0
    # Gradients are scaled down to this global norm; 0: never.
    train.clip_norm = 0.0
    # The moving average of the weights, which evaluates and ships: share that a step keeps of it.
    train.ema_decay = 0.999
    # Steps between validations (with a checkpoint each), between checkpoints besides (0: none), and
    # between lines of the log.
    train.validate_every = 1000
    train.checkpoint_every = 0
    train.log_every = 50

    config.schedule = schedule = ml_collections.ConfigDict()
    # "plateau", the paper's: the rate is multiplied by `factor` whenever the validation loss has
    # not fallen by the relative `rtol` for `patience` validations. A stage has converged when that
    # happens for the (`reductions` + 1)-th time in it; the next starts at the first rate times
    # `restart`. "cosine": from the first rate to `min_lr_ratio` times it, along a cosine over all
    # steps; stages end by their steps.
    schedule.name = "plateau"
    schedule.factor = 1 / 3
    schedule.patience = 5
    schedule.rtol = 1e-3
    schedule.reductions = 2
    schedule.restart = 1.0
    schedule.min_lr_ratio = 0.01
    # Steps at the start over which the rate rises linearly from 0.
    schedule.warmup_steps = 0

    config.evaluate = evaluate = ml_collections.ConfigDict()
    # Folder of images to measure on, or "packaged"; empty: the validation images.
    evaluate.images = ""
    # Range of their luma: "studio" is the protocol's.
    evaluate.luma = "studio"
    # Where results.json goes; empty: the workdir.
    evaluate.output = ""
    # Where to write a page of all images, with a slider between JPEG, restored and original: the
    # name of an HTML file. Empty: none.
    evaluate.gallery = ""
    # Whether the output is projected into the file's quantisation intervals before it is measured.
    evaluate.project = False
    # Whether the output is the mean over the image turned and mirrored in eight ways.
    evaluate.ensemble = False
    return config
