"""The guestkit command on the sample guest and on images made here, run as its users run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from programs import run

COMMAND = [sys.executable, "-m", "guestkit.cli.main"]


def guestkit(*arguments: object, status: int = 0, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command, compare its exit status, and see that what it says of errors is one line each."""
    done = subprocess.run(
        [*COMMAND, *(os.fspath(word) if isinstance(word, (Path, bytes)) else str(word) for word in arguments)],
        capture_output=True,
        check=False,
        timeout=60,
        **options,
    )
    assert done.returncode == status, (arguments, done.returncode, done.stdout[-500:], done.stderr[-2000:])
    assert b"Traceback" not in done.stderr and b"internal error" not in done.stderr
    if status != 2:
        assert all(line.startswith(b"guestkit: ") for line in done.stderr.splitlines()), done.stderr
    return done


def under_terminal(*arguments: object) -> bytes:
    """What the command writes to a terminal, both streams."""
    import pty

    main, side = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *(os.fspath(word) if isinstance(word, Path) else str(word) for word in arguments)],
        stdin=subprocess.DEVNULL,
        stdout=side,
        stderr=side,
    )
    os.close(side)
    written = b""
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError:  # EIO: the last writer is gone
            break
        if not piece:
            break
        written += piece
    os.close(main)
    assert process.wait(60) in (0, 1)
    return written


# the sample guest


def test_ls_lists_sorted_names_one_a_line_in_a_pipe(sample_image: Path) -> None:
    names = guestkit("ls", sample_image, "/").stdout.decode().splitlines()
    assert names == sorted(names)
    assert {"etc", "usr", "var"} <= set(names)
    assert guestkit("ls", "-d", sample_image, "/etc").stdout == b"/etc\n"
    assert guestkit("ls", sample_image).stdout.decode().splitlines() == names


def test_ls_long_shows_links_and_types(sample_image: Path) -> None:
    text = guestkit("ls", "-l", sample_image, "/").stdout.decode()
    assert any(line.startswith("lrwxrwxrwx") and line.endswith("bin -> usr/bin") for line in text.splitlines())
    assert any(line.startswith("drwx") and line.endswith(" etc") for line in text.splitlines())


def test_ls_recursive_find_and_tree_agree(sample_image: Path) -> None:
    found = json.loads(guestkit("find", "--json", sample_image, "/etc").stdout)
    below = {entry["path"] for entry in found} - {"/etc"}
    assert len(below) == len(found) - 1
    listed = json.loads(guestkit("ls", "-aR", "--json", sample_image, "/etc").stdout)
    drawn = json.loads(guestkit("tree", "-a", "--json", sample_image, "/etc").stdout)
    assert {entry["path"] for entry in listed} == {entry["path"] for entry in drawn} == below
    plain = guestkit("find", "-print0", sample_image, "/etc").stdout.split(b"\0")[:-1]
    assert {os.fsdecode(path) for path in plain} == below | {"/etc"}


def test_find_by_name_and_type(sample_image: Path) -> None:
    found = guestkit("find", sample_image, "/", "-name", "os-rel*", "-type", "l").stdout
    assert found == b"/etc/os-release\n"
    found = guestkit("find", sample_image, "/", "-name", "os-release", "-type", "f").stdout
    assert found == b"/usr/lib/os-release\n"


def test_tree_stops_at_its_level(sample_image: Path) -> None:
    drawn = json.loads(guestkit("tree", "--json", "-L", "1", sample_image, "/").stdout)
    assert all(entry["path"].count("/") == 1 for entry in drawn)
    text = guestkit("tree", "-L", "1", sample_image, "/").stdout.decode()
    assert text.startswith("/\n|-- ") and "`-- " in text and text.endswith(" files\n")


def test_cat_gives_the_bytes_by_every_way_to_name_the_file(sample_image: Path) -> None:
    data = guestkit("cat", sample_image, "/etc/os-release").stdout
    assert b"ID=debian" in data
    for way in (["etc/os-release"], ["sda2:/etc/os-release"], ["/dev/vda2:/etc/os-release"]):
        assert guestkit("cat", sample_image, *way).stdout == data
    assert guestkit("cat", "-p", "sda2", sample_image, "/usr/lib/os-release").stdout == data
    assert guestkit("cat", "-m", "/dev/sda2:/", sample_image, "/etc/os-release").stdout == data
    assert guestkit("cat", sample_image, "/etc/os-release", "/etc/hostname").stdout.startswith(data)


def test_stat_shows_what_a_program_and_a_person_need(sample_image: Path) -> None:
    (facts,) = json.loads(guestkit("stat", "--json", sample_image, "/etc/os-release").stdout)
    assert facts["type"] == "link" and facts["target"].endswith("usr/lib/os-release")
    (facts,) = json.loads(guestkit("stat", "-L", "--json", sample_image, "/etc/os-release").stdout)
    assert facts["type"] == "file" and facts["size"] == len(guestkit("cat", sample_image, "/etc/os-release").stdout)
    text = guestkit("stat", sample_image, "/etc").stdout.decode()
    for label in ("File: /etc", "Size:", "Inode:", "Access: (0755/drwxr-xr-x)", "Modify:"):
        assert label in text


def test_df_info_and_inspect(sample_image: Path) -> None:
    found = json.loads(guestkit("df", "--json", sample_image).stdout)["filesystems"]
    (root,) = [facts for facts in found if facts["device"] == "/dev/sda2"]
    assert root["type"] == "ext4" and 0 < root["used"] < root["capacity"]
    document = json.loads(guestkit("info", "--json", sample_image).stdout)
    assert document["disks"][0]["format"] == "qcow2" and document["disks"][0]["table"]["scheme"] == "gpt"
    assert [part["device"] for part in document["disks"][0]["partitions"]] == ["/dev/sda1", "/dev/sda2"]
    assert {facts["type"] for facts in document["filesystems"]} == {"vfat", "ext4"}
    (system,) = json.loads(guestkit("inspect", "--json", "--apps", sample_image).stdout)["systems"]
    assert (system["root"], system["distro"], system["arch"]) == ("/dev/sda2", "debian", "x86_64")
    assert system["mountpoints"] == {"/": "/dev/sda2", "/boot/efi": "/dev/sda1"}
    assert "bash" in {package["name"] for package in system["applications"]}
    for command, word in (("df", "ext4"), ("info", "gpt"), ("inspect", "Debian")):
        assert word in guestkit(command, sample_image).stdout.decode()


def test_cp_file_into_directory_and_under_a_new_name(sample_image: Path, tmp_path: Path) -> None:
    guestkit("cp", sample_image, "/etc/os-release", "/etc/hostname", tmp_path)
    data = guestkit("cat", sample_image, "/etc/os-release").stdout
    assert (tmp_path / "os-release").read_bytes() == data
    guestkit("cp", sample_image, "/etc/os-release", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == data
    said = guestkit("cp", sample_image, "/etc/hostname", tmp_path / "new", status=1).stderr
    assert b"exists already" in said and (tmp_path / "new").read_bytes() == data
    guestkit("cp", "-f", sample_image, "/etc/hostname", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == guestkit("cat", sample_image, "/etc/hostname").stdout


def test_cp_directory_needs_r_and_copies_all_but_devices(sample_image: Path, tmp_path: Path) -> None:
    assert b"-r copies it" in guestkit("cp", sample_image, "/etc", tmp_path, status=1).stderr
    guestkit("cp", "-r", "--preserve", sample_image, "/", tmp_path / "copy")
    found = json.loads(guestkit("find", "--json", sample_image, "/").stdout)
    for entry in found:
        host = tmp_path / "copy" / entry["path"].lstrip("/")
        if entry["type"] in ("file", "directory", "link"):
            status = host.lstat()
            assert status.st_mtime_ns == entry["mtime_ns"], entry
            assert not status.st_mode & 0o6000
            if entry["type"] == "file":
                assert status.st_size == entry["size"]
        else:
            assert not os.path.lexists(host)


def test_cp_to_places_that_are_not_there(sample_image: Path, tmp_path: Path) -> None:
    for target in (tmp_path / "no" / "dir", f"{tmp_path}/no/"):
        guestkit("cp", sample_image, "/etc/hostname", target, status=1)
    guestkit("cp", sample_image, "/etc/hostname", "/etc/fstab", tmp_path / "no", status=1)
    assert list(tmp_path.iterdir()) == []


def test_several_arguments_fail_one_by_one(sample_image: Path) -> None:
    done = guestkit("cat", sample_image, "/nope", "/etc/hostname", "/etc", "/dev/null", status=1)
    assert done.stdout == guestkit("cat", sample_image, "/etc/hostname").stdout
    text = done.stderr.decode()
    for part in ("/nope: No such file or directory", "/etc: Is a directory", "/dev/null: is not a regular file"):
        assert part in text
    for command in ("ls", "stat"):
        done = guestkit(command, sample_image, "/nope", "/etc/hostname", status=1)
        assert b"hostname" in done.stdout


def test_json_stays_json_when_something_fails(sample_image: Path) -> None:
    for command in ("ls", "stat"):
        assert json.loads(guestkit(command, "--json", sample_image, "/nope", status=1).stdout) == []


# bad input


def test_images_that_cannot_be_opened_are_one_line(tmp_path: Path, sample_image: Path) -> None:
    empty = tmp_path / "empty.img"
    empty.touch()
    noise = tmp_path / "noise.img"
    noise.write_bytes(bytes(range(256)) * 4096)
    data = sample_image.read_bytes()
    header = tmp_path / "header.qcow2"
    header.write_bytes(data[:60])
    tables = tmp_path / "tables.qcow2"
    tables.write_bytes(data[:70_000])
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    cases = {
        tmp_path / "nope.img": "No such file",
        tmp_path: "is a directory",
        empty: "is empty",
        noise: "no partition table",
        header: "",
        tables: "",
        fifo: "neither",
    }
    for image, text in cases.items():
        (line,) = guestkit("ls", image, status=1).stderr.decode().splitlines()
        assert str(image) in line and text in line
    for command in (
        ["cat", empty, "/x"],
        ["find", header],
        ["tree", noise],
        ["df", tables],
        ["info", fifo],
        ["inspect", empty],
    ):
        done = guestkit(*command, status=1)
        assert done.stdout == b"" and len(done.stderr.splitlines()) == 1


@pytest.mark.tool("qemu-img")
def test_errors_tell_what_to_do(tmp_path: Path, sample_image: Path) -> None:
    (tmp_path / "in").mkdir()
    inside, outside = tmp_path / "in" / "base.raw", tmp_path / "out.raw"
    for base, overlay in ((inside, "missing.qcow2"), (outside, "escaping.qcow2")):
        run("qemu-img", "create", "-q", "-f", "raw", base, "1M")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", tmp_path / "in" / overlay)
    inside.unlink()
    here = tmp_path / "in"
    cases = [
        ([here / "missing.qcow2"], ["base.raw", "put it there"]),
        ([here / "escaping.qcow2"], ["out.raw", "--allow"]),
        (["-p", "sdq1", sample_image], ["sdq1", "guestkit info"]),
        (["--snapshot", "x", sample_image], ["no snapshot 'x'"]),
        (["--format", "nonsense", sample_image], ["nonsense", "qcow2"]),
    ]
    for words, texts in cases:
        (line,) = guestkit("ls", *words, status=1).stderr.decode().splitlines()
        assert str(words[-1]) in line and all(text in line for text in texts), line
    assert b"--allow" not in guestkit("ls", "--allow", tmp_path, here / "escaping.qcow2", status=1).stderr


def test_unreadable_image_says_so(tmp_path: Path, sample_image: Path) -> None:
    image = tmp_path / "secret.img"
    image.write_bytes(bytes(1 << 20))
    image.chmod(0)
    # root reads it all the same, so become somebody else once everything that may be needed is imported
    script = (
        "import os, sys\n"
        "from guestkit.cli.main import main\n"
        f"main(['ls', '/nonexistent']), main(['ls', {str(sample_image)!r}])\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "if os.geteuid() == 0: os.chmod('.', 0o755), os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "sys.exit(main(['ls', 'secret.img']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(b"guestkit: secret.img: Permission denied (")


def test_data_of_a_truncated_image_fails_alone(tmp_path: Path, sample_image: Path) -> None:
    image = tmp_path / "short.qcow2"
    data = sample_image.read_bytes()
    image.write_bytes(data[: len(data) * 3 // 4])
    for command in (["ls", "-lR", image], ["find", image], ["info", image], ["inspect", image]):
        done = subprocess.run([*COMMAND, *map(str, command)], capture_output=True, check=False, timeout=60)
        assert done.returncode in (0, 1)
        assert b"Traceback" not in done.stderr and b"internal error" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["ls"],
        ["cat", "x.img"],
        ["cp", "x.img", "/only-one"],
        ["find", "x.img", "-type", "x"],
        ["tree", "-L", "0", "x.img"],
        ["ls", "--no-such-option", "x.img"],
        ["completion", "tcsh"],
    ],
)
def test_wrong_usage_is_status_2(words: list[str]) -> None:
    assert guestkit(*words, status=2).stderr


@pytest.mark.parametrize("command", ["ls", "cat", "cp", "find", "tree", "stat", "df", "info", "inspect", "completion"])
def test_help_of_each_command_shows_an_example(command: str) -> None:
    text = guestkit(command, "--help").stdout.decode()
    assert f"guestkit {command}" in text.split("example:")[1]


def test_version() -> None:
    import guestkit as package

    assert guestkit("--version").stdout.decode() == f"guestkit {package.__version__}\n"


def test_strict_is_satisfied_with_a_sound_image(sample_image: Path) -> None:
    guestkit("ls", "--strict", sample_image, "/etc")


def test_reader_that_stops_early_is_no_error(sample_image: Path) -> None:
    script = f"{' '.join(COMMAND)} find {sample_image} / | head -n 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=False, timeout=60)
    assert done.stdout == b"/\n"
    assert b"Traceback" not in done.stderr and b"BrokenPipe" not in done.stderr


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("command", [("cat", "/etc/os-release"), ("ls", "-l", "/etc"), ("tree", "/")])
def test_output_on_a_full_device_is_one_line(sample_image: Path, buffered: bool, command: tuple[str, ...]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    if not buffered:
        environment["PYTHONUNBUFFERED"] = "1"
    words = [*COMMAND, *command[:-1], str(sample_image), command[-1]]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, check=False, env=environment)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.splitlines()[0].startswith(b"guestkit: ") and b"No space" in done.stderr
    assert b"Traceback" not in done.stderr


def test_interrupt_is_quiet_and_130(sample_image: Path, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from guestkit.cli import content, main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where the tests run in the background
        "def slow(*_):\n    os.kill(os.getpid(), signal.SIGINT)\n    import time; time.sleep(5)\n"
        "content.cat = slow\n"
        f"sys.exit(main.main(['cat', {str(sample_image)!r}, '/etc/hostname']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (130, b"")


def test_reading_a_file_imports_neither_mount_nor_progress(sample_image: Path) -> None:
    script = (
        "import sys\n"
        "from guestkit.cli.main import main\n"
        f"status = main(['cat', {str(sample_image)!r}, '/etc/hostname'])\n"
        "loaded = {'trio', 'pyfuse3', 'rich', 'json'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "sys.exit(status)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.tool("bash")
def test_bash_completion_is_a_script_that_knows_commands_and_options() -> None:
    script = guestkit("completion", "bash").stdout.decode()
    script += "\nCOMP_WORDS=(guestkit ins); COMP_CWORD=1; _guestkit; echo ${COMPREPLY[@]}"
    script += "\nCOMP_WORDS=(guestkit inspect --ap); COMP_CWORD=2; _guestkit; echo ${COMPREPLY[@]}"
    assert run("bash", "-c", script).split() == ["inspect", "--apps"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_completions_name_every_command(shell: str) -> None:
    script = guestkit("completion", shell).stdout.decode()
    for command in ("ls", "cat", "cp", "find", "tree", "stat", "df", "info", "inspect", "mount", "umount"):
        assert command in script


# hostile names


EVIL = [
    b"esc\x1b[31mred",
    b"c1\xc2\x9b31m",
    b"new\nline",
    b"bidi\xe2\x80\xaetxt",
    b"bad\xff\xfeutf",
    b"del\x7f",
    b"cr\rx",
]


@pytest.fixture(scope="module")
def evil_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ext4 image full of names that would act on a terminal."""
    top = tmp_path_factory.mktemp("evil")
    tree = os.fsencode(top / "tree")
    for name in (b"etc", b"bin"):
        os.makedirs(tree + b"/" + name)
    for name, data in {
        b"etc/fstab": b"UUID=\x1b[31m /m\x1b[2J ext4\n",
        b"etc/hostname": b"\x1b]0;owned\x07\xff\n",
        b"etc/os-release": b'ID=debian\nPRETTY_NAME="\x1b[31mred \xe2\x80\xae"\nVERSION_ID=12\n',
    }.items():
        with open(tree + b"/" + name, "wb") as file:
            file.write(data)
    os.mkdir(tree + b"/evil")
    for number, name in enumerate(EVIL):
        with open(tree + b"/evil/" + name, "wb") as file:
            file.write(b"\x1b[31m%d" % number)
        os.symlink(name, tree + b"/evil/link%d" % number)
    image = top / "evil.img"
    run("mke2fs", "-q", "-t", "ext4", "-L", "lab\x1bel", "-d", os.fsdecode(tree), image, "8M")
    return image


def _assert_harmless(data: bytes) -> None:
    text = data.decode("utf-8")
    bad = [char for char in text if (ord(char) < 32 and char not in "\r\n\t") or 127 <= ord(char) < 160]
    bad += [char for char in text if char in "\u202e\u200f\u2028"]
    assert not bad, (bad, data)
    assert "\r" not in text.replace("\r\n", "")  # the terminal itself makes those


@pytest.mark.tool("mke2fs")
def test_nothing_that_acts_on_a_terminal_reaches_it(evil_image: Path) -> None:
    names = "".join(os.fsdecode(name) for name in EVIL)
    assert "\x1b" in names
    for words in (
        ["ls", evil_image, "/evil"],
        ["ls", "-laR", evil_image, "/"],
        ["find", evil_image, "/"],
        ["tree", evil_image, "/"],
        ["stat", evil_image, "/evil/link0", "/evil/\x1b[31mno"],
        ["cat", evil_image, "/evil/esc\x1b[31mred", "/etc/hostname", "/no\x1b[31m"],
        ["df", evil_image],
        ["info", evil_image],
        ["inspect", "--apps", evil_image],
        ["ls", "no\x1b[31msuch.img"],
    ):
        written = under_terminal(*words)
        assert written
        _assert_harmless(written)


@pytest.mark.tool("mke2fs")
def test_messages_are_escaped_in_a_pipe_too(evil_image: Path) -> None:
    for words in (["cat", evil_image, "/no\x1b[31m"], ["ls", "no\x1b[31msuch.img"], ["ls", evil_image, "/\udcff"]):
        _assert_harmless(guestkit(*words, status=1).stderr)


@pytest.mark.tool("mke2fs")
def test_pipe_gets_names_as_they_are(evil_image: Path) -> None:
    names = guestkit("ls", "-0", evil_image, "/evil").stdout.split(b"\0")[:-1]
    assert set(EVIL) <= set(names)
    assert b"esc\x1b[31mred\n" in guestkit("ls", evil_image, "/evil").stdout
    found = guestkit("find", "-print0", evil_image, "/evil").stdout.split(b"\0")
    assert {b"/evil/" + name for name in EVIL} <= set(found)
    assert guestkit("cat", evil_image, b"/evil/bad\xff\xfeutf").stdout == b"\x1b[31m4"


@pytest.mark.tool("mke2fs")
def test_json_is_valid_and_lossless_for_every_name(evil_image: Path) -> None:
    for words in (
        ["find", "--json", evil_image, "/evil"],
        ["ls", "--json", evil_image, "/evil"],
        ["tree", "--json", evil_image],
    ):
        output = guestkit(*words).stdout
        assert output.isascii() and b"\x1b" not in output
        paths = {os.fsencode(entry["path"]) for entry in json.loads(output)}
        assert {b"/evil/" + name for name in EVIL} <= paths
    for command in ("df", "info", "inspect"):
        assert json.loads(guestkit(command, "--json", evil_image).stdout)


@pytest.mark.tool("mke2fs")
def test_evil_names_are_copied_as_they_are(evil_image: Path, tmp_path: Path) -> None:
    guestkit("cp", "-r", evil_image, "/evil", tmp_path)
    assert set(EVIL) <= set(os.listdir(os.fsencode(tmp_path / "evil")))


@pytest.mark.tool("mke2fs")
def test_without_an_operating_system_every_filesystem_is_shown(tmp_path: Path) -> None:
    image = tmp_path / "data.img"
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("data")
    run("mke2fs", "-q", "-t", "ext4", "-d", tmp_path / "tree", image, "4M")
    assert guestkit("cat", image, "/partitions/sda/file").stdout == b"data"
    assert guestkit("cat", image, "sda:/file").stdout == b"data"
    assert b"no operating system" in guestkit("inspect", image, status=1).stderr
    assert json.loads(guestkit("inspect", "--json", image, status=1).stdout) == {"systems": []}


@pytest.mark.tool("mke2fs", "debugfs")
def test_damage_is_a_warning_and_with_strict_an_error(tmp_path: Path) -> None:
    image = tmp_path / "damaged.img"
    (tmp_path / "tree").mkdir()
    for name in ("good", "bad"):
        (tmp_path / "tree" / name).write_text(name)
    run("mke2fs", "-q", "-t", "ext4", "-O", "metadata_csum", "-d", tmp_path / "tree", image, "4M")
    place = run("debugfs", "-R", "imap /bad", image)
    found = re.search(r"located at block (\d+), offset 0x([0-9a-f]+)", place)
    assert found
    with open(image, "r+b") as file:
        file.seek(int(found[1]) * 1024 + int(found[2], 16) + 4)
        file.write(b"\xff\xff")
    done = guestkit("ls", "-l", image, "sda:/")
    assert b"good" in done.stdout and b"bad" in done.stdout and b"?????" in done.stdout
    assert b"warning: one problem was met" in done.stderr
    assert b"damaged" in guestkit("ls", "-l", "--strict", image, "sda:/", status=1).stderr
    assert guestkit("cat", image, "sda:/good").stdout == b"good"
    guestkit("cat", image, "sda:/bad", status=1)
