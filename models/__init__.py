"""Structure in, spectrum out: graphs, Mat2Spec, training and prediction."""
