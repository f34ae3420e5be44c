#!/bin/bash

#SBATCH --partition=gpu,gpu-long
#SBATCH --account=radiology
#SBATCH --qos=normal
#SBATCH --time=1-12
#SBATCH --mem=32768M
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:a100:2
#SBATCH '--constraint=ib&gpu80g'
#SBATCH --signal=B:USR2@90
#SBATCH --exclusive
#SBATCH '--comment=it'"'"'s "one" $(run); #5'
#SBATCH --output=logs/slurm-%j.out
#SBATCH --open-mode=append
#SBATCH --no-requeue
export PYTHONSAFEPATH=1
module load 'apptainer/1.4'
export WHERE="$HOME" # 100%
exec /venv/bin/python -m modelhub_hpc.executors.worker tls://DRIVER:PORT --name mh-20260101-obedient-abcd-w1 --nthreads 1 --memory-limit 0.93GiB --death-timeout 120.0 --processes 2 --drain 90 --walltime 129600.0 --protocol tls:// --tls-ca-file .mh-hpc/workers/tls/cert.pem --tls-cert .mh-hpc/workers/tls/cert.pem --tls-key .mh-hpc/workers/tls/key.pem
