"""Models in file formats of other programs, and back.

`exporter` has the two functions that callers need, `export_model` and `import_model`. Each format
has its own file: `weights` (npz, safetensors), `orbax_checkpoint`, `pytorch`, `onnx` and
`stablehlo`. `torch_dmcnn` and `torch_baselines` are the networks in PyTorch.
"""
