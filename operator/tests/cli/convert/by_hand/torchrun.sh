# On node 0 of 4, and the same with --node-rank 1, 2 and 3 on the others.
export NCCL_DEBUG=WARN
export HF_HOME=/data/cache
torchrun --nnodes 4 --nproc-per-node 8 --node-rank 0 --master-addr node0 --master-port 29500 \
  train.py --epochs 10 --out /data/out
