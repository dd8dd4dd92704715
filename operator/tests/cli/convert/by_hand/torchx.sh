torchx run -s kubernetes -cfg queue=research,namespace=ml dist.ddp \
  -j 2:4x8 --name train --image registry.example.com/train:1 \
  --cpu 64 --gpu 8 --memMB 512000 --max_retries 3 --rdzv_port 29500 \
  --env NCCL_DEBUG=WARN,HF_HOME=/data/cache \
  --mounts type=volume,src=data,dst=/data \
  -m train.main -- --epochs 10
