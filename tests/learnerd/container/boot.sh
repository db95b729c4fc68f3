#!/bin/bash
# Boots a container over an overlay of this machine's root, and runs scenario.py in it. All of it lives in namespaces of its
# own, so that nothing is left behind when the caller's unshare ends, and no process outside can be touched.
# usage: unshare --mount --pid --fork --kill-child --mount-proc boot.sh SCRATCH CGROUP PYTHON FOLDER...
set -euo pipefail
scratch=$1 cgroup=$2 python=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)

mount --make-rprivate /
mkdir -p "$scratch/out"
chmod 777 "$scratch/out"
mkdir "$scratch/overlay"
mount -t tmpfs tmpfs "$scratch/overlay"
cd "$scratch/overlay"
mkdir upper work tree
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work tree
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn

# The container's systemd owns the groups below this one.
for procs in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/{systemd,unified}/cgroup.procs; do
    if [[ -e $procs ]]; then
        mkdir -p "$(dirname "$procs")/$cgroup"
        echo 0 > "$(dirname "$procs")/$cgroup/cgroup.procs"
    fi
done

cat > tree/etc/systemd/system/scenario.service <<UNIT
[Service]
Type=oneshot
Environment=PYTHONPATH=$LEARNERD_TEST_ROOT
ExecStart=$python $here/scenario.py $python /out
ExecStopPost=/bin/systemctl --no-block exit
UNIT

binds=()
for folder in "$@"; do
    binds+=("--bind-ro=$folder")
done
export SYSTEMD_NSPAWN_TMPFS_TMP=0
exec systemd-nspawn --quiet --register=no --keep-unit --link-journal=no --machine="$cgroup" --directory="$PWD/tree" \
    --bind="$scratch/out:/out" "${binds[@]}" --console=pipe --boot systemd.unit=scenario.service systemd.log_target=console
