#!/bin/sh
# Step 3.2 of the recipe. Every value can be overridden by an environment variable, such as
#   DATA_DIR=people PREFIX=models/nra/model PRETRAINED=models/nra/model_t,0 sh NRA.sh
# and further flags follow: sh NRA.sh --noise-threshold 0.007
# CUDA_VISIBLE_DEVICES empty, or no usable GPU: the CPU.
CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0,1}" exec "${PYTHON:-python}" -u "$(dirname "$0")/train_relusoft.py" \
    --network "${NETWORK:-r50}" \
    --loss-type "${LOSS_TYPE:-4}" \
    --margin-m "${MARGIN_M:-0.5}" \
    --data-dir "${DATA_DIR:-./MF2_pic9_head/}" \
    --lr "${LR:-0.01}" \
    --lr-steps "${LR_STEPS-50000,90000}" \
    --per-batch-size "${PER_BATCH_SIZE:-100}" \
    --noise-beta "${NOISE_BETA:-0.9}" \
    --prefix "${PREFIX:-../models/NRA_r50pic9/model}" \
    --bin-dir "${BIN_DIR:-./src/}" \
    --pretrained "${PRETRAINED:-../models/NRA_r50pic9/model_t,0}" \
    "$@"
