"""Images, and the training pairs made from them.

`feeds` opens a configuration's data. `sources` reads a folder (`images`) or a pack (`packs`) as
square tiles (`tiles`), from which `luma_pairs` and `chroma_pairs` make pairs inside the training
step. `tf_pipeline` makes pairs by tf.data instead, for data sets too large to be cut beforehand,
such as those of `tfds`.
"""
