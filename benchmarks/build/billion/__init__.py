"""The builder's planning, selection and assembly, and the trainer's data path, at the size of ZINC20."""
