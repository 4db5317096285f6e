# Sourced by the other scripts: the virtual environment .venv in the project folder, made anew only when its
# requirements have changed. Usage: . launch/environment.sh [extra requirements file ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

make_environment() {
    local python="${PYTHON:-python3}" files=(requirements.txt "$@") wanted
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: $python is older than Python 3.11; set PYTHON to a newer one." >&2
        exit 2
    }
    for file in "${files[@]}"; do
        wanted="$("$python" --version) $(sha256sum "$file")"
        if ! grep -qxF "$wanted" .venv/installed 2>/dev/null; then
            [ -x .venv/bin/python ] || "$python" -m venv .venv
            echo "installing $file into .venv"
            .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$file"
            echo "$wanted" >>.venv/installed
        fi
    done
}
