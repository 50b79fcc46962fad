"""How much of two bases' leading directions agree: python docs/python/similarity.py"""

import lora_graft
from example_files import BASE_A, BASE_B, FRAME

report = lora_graft.similarity(BASE_A, BASE_B, lora=FRAME)
print(report.advice, "-", report.advice_reason)
for module in report.modules[:5]:
    print(module.name, module.decision)
