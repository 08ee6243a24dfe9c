#!/usr/bin/env bash
# Runs every test: installs what they need, builds, runs each test program, and closes with one line of counts.
# Arguments name test projects to run alone, for example: ./virtbus test Virtbus.Tests.Vm
set -u
root=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
results=$root/artifacts/test-results

# Debian packages: installed when we may, else named, and the tests that need them say that they are skipped.
missing=()
while read -r package _; do
  [[ -z $package || $package == \#* ]] && continue
  [[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) == 'install ok installed' ]] || missing+=("$package")
done <"$root/packaging/test-packages.txt"
if ((${#missing[@]})); then
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "Installing ${missing[*]}"
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$root/apt.log" 2>&1; then
      tail -n 20 "$root/apt.log"
      rm -f "$root/apt.log"
      echo "virtbus test: apt could not install ${missing[*]}." >&2
      exit 1
    fi
    rm -f "$root/apt.log"
  else
    echo "Not installed: ${missing[*]}"
    echo "Tests with a real guest are skipped without them. Install them with: sudo apt install ${missing[*]}"
  fi
fi

projects=("$@")
if ((${#projects[@]} == 0)); then
  for project in "$root"/tests/Virtbus.Tests*/; do
    name=$(basename "$project")
    [[ -f $project/$name.csproj && $name != *.Module ]] && projects+=("$name")
  done
fi

echo "Building"
rm -rf "$results"
mkdir -p "$results"
# The program as its users run it: some tests start it.
"$root/virtbus" --build --version >/dev/null || exit 1
VIRTBUS_TEST_PROGRAM=$(<"$root/artifacts/program/current")/virtbus
export VIRTBUS_TEST_PROGRAM
# What real guests run with, a private QEMU above all and a second kernel, is fetched while the tests are built. A test waits for it, or says what is missing.
{
  "$root/virtbus" vm --prepare
  "$root/virtbus" vm --prepare --kernel trixie
} 2>"$results/prepare.log" &
dotnet build "$root/Virtbus.slnx" -c Release -m:2 -p:UseSharedCompilation=true --nologo -v quiet -clp:NoSummary || { echo "virtbus test: the build failed." >&2; exit 1; }

# A test that hangs costs its program this long, and not the whole run; what has run for 'slow' seconds is named as long as it runs.
limit=900 slow=120 child=
trap '[[ -z $child ]] || kill -KILL -- "-$child" 2>/dev/null; exit 130' INT TERM

run() {
  # A group of its own, so that what a test started ends with it.
  setsid dotnet "$@" </dev/null &
  child=$!
  local end=$((SECONDS + limit)) thread
  while kill -0 "$child" 2>/dev/null && ((SECONDS < end)); do
    sleep 0.5
  done
  if kill -0 "$child" 2>/dev/null; then
    echo "virtbus test: $project did not end within $limit s. Its threads, with the number of the system call that each is in:" >&2
    for thread in "/proc/$child/task"/*; do
      echo "  ${thread##*/} $(<"$thread/comm") $(cut -d ' ' -f 1 "$thread/syscall")"
    done >&2
    kill -KILL -- "-$child"
  fi
  wait "$child"
  local ended=$?
  child=
  return "$ended"
}

# The failed tests of a result, a line each: the name and what the message begins with.
name_failures() {
  awk 'BEGIN {RS = "<test "} / result="Fail"/ {
    name = $0; sub(/^[^>]* name="/, "", name); sub(/".*/, "", name)
    message = $0; if (!sub(/^.*<message>(<!\[CDATA\[)?/, "", message)) message = ""; sub(/([\r\n<]|\]\]>|&#x?[dDaA1][0-3]?;).*/, "", message)
    gsub(/\\?&quot;/, "\"", name)
    print "FAILED " name ": " message
  }' "$1"
}

passed=0 failed=0 skipped=0 status=0 failures=
for project in "${projects[@]}"; do
  program=$root/artifacts/bin/$project/release/$project.dll
  if [[ ! -f $program ]]; then
    echo "virtbus test: there is no test project '$project' in tests/." >&2
    exit 2
  fi
  echo "== $project"
  # -stopOnFail is not given: one failure must not hide another.
  run "$program" -noLogo -noColor -longRunning "$slow" -result-xml "$results/$project.xml" || status=1
  # The <assembly …> element has the counts; without it the program died, which is a failure of its own.
  if [[ -s $results/$project.xml ]]; then
    read -r p f s e < <(grep -o '<assembly [^>]*>' "$results/$project.xml" | tail -n 1 | tr ' ' '\n' | awk -F'"' '
      /^passed=/ {p=$2} /^failed=/ {f=$2} /^skipped=/ {s=$2} /^errors=/ {e=$2} END {print p+0, f+0, s+0, e+0}')
    passed=$((passed + p)) failed=$((failed + f + e)) skipped=$((skipped + s))
    ((f == 0)) || failures+=$(name_failures "$results/$project.xml")$'\n'
  else
    echo "virtbus test: $project ended without a result." >&2
    failed=$((failed + 1)) failures+="FAILED $project: no result"$'\n'
  fi
done
((failed == 0)) || status=1
# Again at the end: of a long log people have the last lines.
printf '%s' "$failures"
echo "$passed passed, $failed failed, $skipped skipped"
exit $status
