"""Loading installs nothing, reaches no host and writes no file, whatever a dependency tries."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from interp.core.runs import InputError
from interp.models.isolation import isolated
from interp.models.language import load_model

PIP = [sys.executable, "-m", "pip", "install", "torchvision", "-q"]
FUNCTIONS = ((subprocess, "run"), (subprocess, "check_call"), (os, "system"), (socket, "getaddrinfo"))


def now():
    return [vars(owner)[name] for owner, name in FUNCTIONS] + [
        subprocess.Popen.__init__,
        "connect" in vars(socket.socket),
    ]


@pytest.mark.parametrize("start", ["run", "call", "check_call", "check_output", "Popen"])
@pytest.mark.parametrize(
    "command", [PIP, ["uv", "pip", "install", "x"], "pip3 install x", ("conda", "install", "x")]
)
def test_an_installer_is_stopped(start, command):
    with (
        pytest.raises(
            InputError, match=r"tried to install packages while a model was loaded \(.*install.*\)"
        ),
        isolated(),
    ):
        getattr(subprocess, start)(args=command)
    with pytest.raises(InputError, match="tried to install packages"), isolated():
        getattr(subprocess, start)(command)


def test_a_shell_is_no_way_around():
    with pytest.raises(InputError, match=r"\(pip install x\), which was stopped"), isolated():
        os.system("pip install x")


def test_other_commands_run():
    with isolated():
        assert subprocess.check_output([sys.executable, "-c", "print('pip')"]) == b"pip\n"


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()


@pytest.mark.enable_socket
def test_no_host_is_reached(server):
    with pytest.raises(InputError, match=r"tried to reach 127\.0\.0\.1 while a model was loaded"), isolated():
        socket.create_connection(server)
    with pytest.raises(InputError, match=r"tried to reach huggingface\.co"), isolated():
        socket.getaddrinfo("huggingface.co", 443)
    with socket.socket() as own, isolated(), pytest.raises(InputError, match=r"tried to reach 127\.0\.0\.1"):
        own.connect_ex(server)


@pytest.mark.enable_socket
def test_other_threads_do_as_they_please(server):
    done = []
    with isolated():
        other = threading.Thread(target=lambda: done.append(socket.create_connection(server).close()))
        other.start()
        other.join()
    assert done == [None]


@pytest.mark.enable_socket
def test_everything_is_as_before_afterwards(server):
    before = now()
    with pytest.raises(KeyError), isolated(), isolated():
        raise KeyError("within")
    assert now() == before
    socket.create_connection(server).close()


def test_a_bridge_that_installs_is_one_sentence(saved, monkeypatch):
    from transformer_lens.model_bridge import TransformerBridge

    tried = []
    monkeypatch.setattr(subprocess, "check_call", tried.append)
    monkeypatch.setattr(TransformerBridge, "boot_transformers", lambda *_, **__: subprocess.check_call(PIP))
    with pytest.raises(InputError, match="tried to install packages"):
        load_model(saved())
    assert tried == []


@pytest.mark.parametrize("error", [RuntimeError("size 32 must match 16"), IndexError(), AssertionError("no")])
def test_whatever_a_bridge_raises_is_one_sentence(saved, monkeypatch, error):
    from transformer_lens.model_bridge import TransformerBridge

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(TransformerBridge, "boot_transformers", fail)
    reason = str(error) or type(error).__name__
    with pytest.raises(InputError, match=rf"TransformerLens cannot hook LlamaForCausalLM \({reason}\)"):
        load_model(saved())


WATCHED: list[str] | None = None


def watch(event: str, args: tuple) -> None:
    """An audit hook, which python cannot take away again: it sleeps while WATCHED is None."""
    if WATCHED is None:
        return
    writes = event == "open" and bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR))
    if writes or event in ("os.mkdir", "os.rename", "os.remove", "socket.connect", "subprocess.Popen"):
        WATCHED.append(f"{event} {args[0]}")


def test_loading_writes_no_file(saved, lora, tiny, tmp_path, monkeypatch):
    global WATCHED
    folder = saved()
    lora(tiny("llama")[0]).save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    load_model(folder)  # whatever is compiled when something is first imported
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    sys.addaudithook(watch)
    WATCHED = []
    try:
        load_model(folder, adapter=tmp_path / "adapter").hook_names  # noqa: B018
        found = WATCHED
    finally:
        WATCHED = None
    assert found == []
