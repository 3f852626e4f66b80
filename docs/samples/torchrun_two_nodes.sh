#!/bin/bash
# One job on two machines by torchrun. The same line on both, with 0 on the first and 1 on the second:
#
#     torchrun_two_nodes.sh 0 10.0.0.1 4 search market1501_darts -o name=darts -o data.root=/data/people
#     torchrun_two_nodes.sh 1 10.0.0.1 4 search market1501_darts -o name=darts -o data.root=/data/people
#
# Arguments: number of this machine, address of the first as the other reaches it, GPUs of each machine, command.
# PORT (29500) has to be open on the first machine. GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME choose the network device.
set -euo pipefail

if [ $# -lt 4 ]; then
    echo "usage: $0 MACHINE ADDRESS GPUS COMMAND ..." >&2
    exit 1
fi
machine=$1 address=$2 gpus=$3
shift 3

exec torchrun \
    --nnodes=2 \
    --node-rank="$machine" \
    --nproc-per-node="$gpus" \
    --rdzv-endpoint="$address:${PORT:-29500}" \
    -m "${MODULE:-dcs_nas}" "$@"
