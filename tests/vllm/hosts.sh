#!/usr/bin/env bash
# Runs FOLDER/host0.sh, host1.sh, ... at the same time, each on a host of its own: a network namespace with its own name
# and address, 10.77.0.10 and so on. Each script's output goes to hostN.log and its exit status to hostN.status. Ends
# when host0 ends, and then ends the others. It must itself run in new namespaces:
#   unshare --user --map-root-user --net --mount --pid --fork --kill-child --mount-proc tests/vllm/hosts.sh FOLDER
set -eu
folder=$1
ip link add bridge0 type bridge
ip link set bridge0 up
count=$(ls "$folder"/host?.sh | wc -l)
echo "127.0.0.1 localhost" >"$folder/hosts"
for ((i = 0; i < count; i++)); do echo "10.77.0.1$i host$i" >>"$folder/hosts"; done
for ((i = 0; i < count; i++)); do
    # shellcheck disable=SC2016  # the inner shell expands its arguments
    unshare --net --mount --uts bash -c '
        hostname "host$1"
        mount --bind "$2/hosts" /etc/hosts
        ip link set lo up
        until ip addr add "10.77.0.1$1/24" dev eth0 2>/dev/null; do sleep 0.1; done
        ip link set eth0 up
        bash "$2/host$1.sh" >"$2/host$1.log" 2>&1
        echo $? >"$2/host$1.status"' bash "$i" "$folder" &
    pids[i]=$!
    until [ "$(readlink "/proc/$!/ns/net")" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
    ip link add "port$i" type veth peer name eth0 netns "$!"
    ip link set "port$i" master bridge0 up
done
wait "${pids[0]}" "${pids[@]:1:count-2}"
