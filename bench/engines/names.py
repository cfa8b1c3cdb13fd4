"""Words that an engine prints and the table reads. Knows no library."""

AS_SERVED = "as served"
FP32, BF16 = "fp32", "bf16"
