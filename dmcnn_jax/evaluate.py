def evaluate_config(config, weights, workdir):
    pass
