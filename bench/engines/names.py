"""Column names that engines print and tables read."""

AS_SERVED = "as served"
FP32, BF16 = "fp32", "bf16"
