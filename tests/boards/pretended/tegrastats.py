# One line in the format of JetPack 5 and 6, written by hand.
import sys
import time

LINE = (
    "11-26-2026 12:00:00 RAM 3021/15823MB (lfb 4x4MB) SWAP 0/7911MB (cached 0MB) CPU [3%@1984,0%@1984] EMC_FREQ 0%@3199"
    " GR3D_FREQ 99%@[917] cpu@45.6C gpu@44.1C tj@45.6C VDD_IN 5004mW/5004mW VDD_CPU_GPU_CV 880mW/880mW"
)
assert sys.argv[1] == "--interval"
while True:
    print(LINE, flush=True)
    time.sleep(int(sys.argv[2]) / 1000)
