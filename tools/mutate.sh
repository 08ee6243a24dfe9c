#!/usr/bin/env bash
# Mutation testing of a floor: changes its source in small ways, one at a time, and runs the floor's tests on each; what no test notices is a hole in
# them. By hand, since a floor takes from half an hour to hours. What has a lowest score that is held fails below it. What is not counted, and the
# scores there were: docs/testing.md. Floors first, or a folder or file of one; options of Stryker behind --:
#   tools/mutate.sh Wire Virtio/Rings Platform/UseGate.cs -- -c 1
set -eu
root=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
version=5.1.0
tools=$root/artifacts/tools

# In percent of the mutants, by floor, folder or file.
declare -A lowest=([Wire]=80)

parts=()
while (($#)) && [[ $1 != -- ]]; do
  parts+=("$1")
  shift
done
(($#)) && shift
((${#parts[@]})) || parts=(Platform Memory Virtio Wire)
for part in "${parts[@]}"; do
  if [[ ! -f $root/tests/Virtbus.Tests.${part%%/*}/Virtbus.Tests.${part%%/*}.csproj || ! -e $root/src/$part ]]; then
    echo "mutate: there is no '$part'. Floors are the folders of src/ that have a project in tests/, for example Virtio; folders and files are theirs, for example Virtio/Rings." >&2
    exit 2
  fi
done

[[ -x $tools/dotnet-stryker ]] || dotnet tool install dotnet-stryker --version "$version" --tool-path "$tools" >/dev/null
failed=0
for part in "${parts[@]}"; do
  floor=${part%%/*}
  output=$root/artifacts/mutation/$part
  mkdir -p "$output"
  echo "== $part, its report will be $output/reports/mutation-report.html"
  least=${lowest[$part]:-0}
  files=()
  [[ $part == */* && -d $root/src/$part ]] && files=(-m "**/${part#*/}/**/*.cs")
  [[ $part == */*.cs ]] && files=(-m "**/${part#*/}")
  code=0
  # Analyzers have nothing to say to what is changed on purpose.
  (cd "$root/tests/Virtbus.Tests.$floor" && RunAnalyzers=false "$tools/dotnet-stryker" -p "Virtbus.$floor.csproj" -f "$root/tools/mutate.json" \
    --skip-version-check --threshold-high 100 --threshold-low "$least" --break-at "$least" -O "$output" "${files[@]}" "$@") >"$output/run.log" 2>&1 || code=$?
  score=$(sed -n "s/.*final mutation score is \(.*\)/\1/p" "$output/run.log")
  if [[ -z $score ]]; then
    tail -n 20 "$output/run.log"
    exit 1
  fi
  echo "$part: $score"
  if ((code)); then
    echo "mutate: $part has less than the lowest score that is held, $least %. What no test noticed is what $output/reports/mutation-report.html shows as survived or without coverage." >&2
    failed=1
  fi
done
exit $failed
