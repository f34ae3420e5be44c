#!/bin/sh
# One apptainer exec per image, as an array of jobs. usage: sbatch --array=1-N array.sh CASES COMMAND...
cases=$1
shift
"$@" "$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$cases")" > "$SLURM_ARRAY_TASK_ID.json" && date +%s.%N >> ended
