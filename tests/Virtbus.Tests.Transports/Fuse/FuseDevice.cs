using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Transports.Fuse;

/// <summary>A device with a file of each kind.</summary>
internal sealed class FuseDevice(string name, Device? parent = null) : Device(name, parent)
{
    internal const int BytesSize = 4096;
    internal const int PublicBytes = 64;

    private static readonly AttributeGroup[] _groups =
    [
        new(
            new ObjectAttribute<FuseDevice>("fixed", static _ => "as ever"),
            new ObjectAttribute<FuseDevice>("value", static d => d.Value, static (d, value, _) => d.Store(value)),
            new ObjectAttribute<FuseDevice>("command", null, static (d, value, cancel) => d.OnCommand(value, cancel)),
            new ObjectAttribute<FuseDevice>("long", static _ => string.Concat(Enumerable.Range(0, 20_000).Select(static i => $"{i}\n"))),
            new ObjectAttribute<FuseDevice>("broken", static _ => throw new InvalidOperationException("a bug of the test's")),
            new ObjectAttribute<FuseDevice>("refusing", static _ => throw new VirtbusException(Errno.EBUSY, "not now")),
            new BinaryAttribute<FuseDevice>(
                "bytes",
                static _ => BytesSize,
                static (d, at, to) => d.Bytes.AsSpan((int)at, to.Length).CopyTo(to),
                static _ => "",
                static (d, at, from) => from.CopyTo(d.Bytes.AsSpan((int)at)),
                static (_, _, _) => default) { PublicBytes = PublicBytes }),
        new("more", new ObjectAttribute<FuseDevice>("inner", static _ => "in")),
    ];

    internal string Value { get; set; } = "first";

    internal byte[] Bytes { get; } = [.. Enumerable.Range(0, BytesSize).Select(static i => (byte)i)];

    internal Func<string, CancellationToken, ValueTask> OnCommand { get; set; } = static (_, _) => default;

    protected internal override IReadOnlyList<AttributeGroup> AttributeGroups => _groups;

    private ValueTask Store(string value)
    {
        Value = value.Length > 0 ? value : throw new VirtbusException(Errno.EINVAL, "nothing");
        return default;
    }
}
