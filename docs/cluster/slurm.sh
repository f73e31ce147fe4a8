#!/bin/bash
#SBATCH --job-name=moetrace
#SBATCH --array=0-7
#SBATCH --gpus=1
#SBATCH --cpus-per-task=6
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --requeue
# Eight tasks, one run: each claims the shards that nobody has. STORE lies where every node sees it: a shared folder, or a
# bucket. A task that is killed or requeued goes on where it stopped, and the array may be submitted again at any time.
set -euo pipefail

MODEL=${MODEL:-Qwen/Qwen3-30B-A3B}
CORPUS=${CORPUS:?the corpus, a folder that every node sees}
STORE=${STORE:?the store, a folder that every node sees or a URL}

exec moetrace trace "$MODEL" --corpus "$CORPUS" --store "$STORE" --run "${RUN:-web}" ${OPTIONS:-}
