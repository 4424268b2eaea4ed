from fedloru.report.names import LENGTH, prefix, short, without


def test_the_shared_prefix_is_left_out() -> None:
    names = ["model.layers.0.q.weight", "model.layers.1.q.weight", "model.layers.0.v.weight"]
    assert short(names) == dict(zip(names, ["0.q", "1.q", "0.v"], strict=True))
    assert without(names) == 'Names of layers are shown without "model.layers.".'


def test_a_prefix_ends_with_a_dot_and_names_without_dots_do_not_count() -> None:
    assert prefix(["block1.fc", "block2.fc"]) == ""
    assert short(["h.0.fc.weight", "h.1.fc.weight", "head.weight"])["h.1.fc.weight"] == "1.fc"
    assert short(["fc1.weight", "fc2"]) == {"fc1.weight": "fc1", "fc2": "fc2"} and without(["fc1"]) == ""


def test_short_names_are_different() -> None:
    assert set(short(["a.b.weight", "a.b", "b"]).values()) == {"a.b.weight", "a.b", "b"}
    assert short(["a.b.c", "a.b.d", "c"]) == {"a.b.c": "a.b.c", "a.b.d": "a.b.d", "c": "c"}


def test_long_names_are_cut_from_the_left() -> None:
    (name,) = short([f"{'x' * 100}.end"]).values()
    assert len(name) == LENGTH and name.startswith("…") and name.endswith(".end")
