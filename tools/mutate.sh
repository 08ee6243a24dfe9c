#!/usr/bin/env bash
# Mutation testing of a floor: changes its source in small ways, one at a time, and runs the floor's tests on each; what no test notices is a hole in
# them. By hand, since a floor takes from half an hour to hours. Floors first, options of Stryker behind --, for example one file:
#   tools/mutate.sh Virtio -- -m '**/QueueState.cs'
set -eu
root=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
version=5.1.0
tools=$root/artifacts/tools

floors=()
while (($#)) && [[ $1 != -- ]]; do
  floors+=("$1")
  shift
done
(($#)) && shift
((${#floors[@]})) || floors=(Platform Memory Virtio Wire)
for floor in "${floors[@]}"; do
  if [[ ! -f $root/tests/Virtbus.Tests.$floor/Virtbus.Tests.$floor.csproj ]]; then
    echo "mutate: there is no floor '$floor'. Floors are the folders of src/ that have a project in tests/, for example Virtio." >&2
    exit 2
  fi
done

[[ -x $tools/dotnet-stryker ]] || dotnet tool install dotnet-stryker --version "$version" --tool-path "$tools" >/dev/null
for floor in "${floors[@]}"; do
  output=$root/artifacts/mutation/$floor
  mkdir -p "$output"
  echo "== $floor, its report will be $output/reports/mutation-report.html"
  (cd "$root/tests/Virtbus.Tests.$floor" && "$tools/dotnet-stryker" -p "Virtbus.$floor.csproj" -t mtp --skip-version-check -r Html -r Json -O "$output" "$@") \
    >"$output/run.log" 2>&1 || { tail -n 20 "$output/run.log"; exit 1; }
  sed -n "s/.*final mutation score is \(.*\)/$floor: \1/p" "$output/run.log"
done
