using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Ethernet;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioBlk;
using Virtbus.Models.VirtioConsole;
using Virtbus.Models.VirtioNet;
using Virtbus.Models.VirtioRng;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>A virtio function of some kind in some state, whose queues do nothing by themselves, and all that can be read of it.</summary>
internal sealed class WidthWorld : IDisposable
{
    internal static readonly string[] Kinds = ["blk", "net", "console", "rng"];

    private const int Shown = 0x60;
    private readonly PollThreads _pool = PollThreads.MakeStepped("widths");
    private readonly MemoryBackend _medium = new(1 << 20);
    private readonly WidthState _state;
    private readonly byte[] _writeback = new byte[1];

    internal WidthWorld(string kind, WidthState state)
    {
        PollThreads.Here = _pool;
        _state = state;
        VirtioDevice device = kind switch
        {
            "blk" => new VirtioBlkDevice("blk", _medium, "serial", queueCount: 2),
            "net" => new VirtioNetDevice("net", new EthernetSwitch(), new VirtioNetOptions(0x02_00_00_00_00_01)),
            "console" => new VirtioConsoleDevice("console"),
            _ => new VirtioRngDevice("rng"),
        };
        Kind = kind;
        Card = new VirtioCard(device, new VirtioFunctionOptions { IsTransitional = IsTransitional });
        device.TryGetConfig(VirtioBlkConfig.WritebackOffset, _writeback, out _);
        Bring();
    }

    internal VirtioCard Card { get; }

    internal string Kind { get; }

    internal VirtioFunction Function => Card.Function;

    internal bool IsTransitional => _state is not (WidthState.Reset or WidthState.Running) && Kind != "rng";

    internal bool IsRunning => _state is WidthState.Running or WidthState.LegacyRunning or WidthState.LegacyMsix;

    internal bool HasMessages => _state is WidthState.Running or WidthState.LegacyMsix;

    internal int Queues => Function.Device.QueueCount;

    /// <summary>Bytes of the ports before the configuration.</summary>
    internal int LegacyHeader => HasMessages ? 24 : 20;

    /// <summary>Where the pending bits begin.</summary>
    internal int PendingAt => (int)Function.GetBar(1).Size / 2;

    public void Dispose()
    {
        Card.Dispose();
        PollThreads.Here = null;
        _pool.Dispose();
        _medium.Dispose();
    }

    /// <summary>The function as it was at first.</summary>
    internal void Restore()
    {
        Function.Reset();
        // A disk keeps it for whoever comes.
        if (Kind == "blk")
            Function.Device.TrySetConfig(VirtioBlkConfig.WritebackOffset, _writeback, out _);
        Bring();
    }

    /// <summary>What is at the beginning of the pages of BAR 4, in BAR 1, in BAR 0, and in config space.</summary>
    internal byte[] Picture()
    {
        var all = new byte[(4 * Shown) + 0x200 + 0x100 + 0x100];
        for (var page = 0; page < 4; page++)
            Function.ReadBar(4, (ulong)page * 0x1000, all.AsSpan(page * Shown, Shown));
        Function.ReadBar(1, 0, all.AsSpan(4 * Shown, 0x100));
        Function.ReadBar(1, (ulong)PendingAt, all.AsSpan((4 * Shown) + 0x100, 0x100));
        if (IsTransitional)
            Function.ReadBar(0, 0, all.AsSpan((4 * Shown) + 0x200, (int)Function.GetBar(0).Size));
        Function.ReadConfig(0, all.AsSpan((4 * Shown) + 0x300, 0x100));
        return all;
    }

    /// <summary>Where a byte of a BAR is in the picture; -1 when it is not in it.</summary>
    internal int PlaceOf(int bar, int offset) => bar switch
    {
        4 when offset < 0x4000 && offset % 0x1000 < Shown => (offset / 0x1000 * Shown) + (offset % 0x1000),
        1 when offset < 0x100 => (4 * Shown) + offset,
        1 when offset >= PendingAt && offset < PendingAt + 0x100 => (4 * Shown) + 0x100 + offset - PendingAt,
        0 when offset < 0x100 => (4 * Shown) + 0x200 + offset,
        _ => -1,
    };

    /// <summary>The places that are tried: where something is, and the borders of it.</summary>
    internal IEnumerable<(int Bar, int Offset, int Width)> Places()
    {
        var table = (Queues + 1) * 16;
        (int Bar, int From, int To)[] ranges =
        [
            (4, 0, 0x48), (4, 0xFF9, 0x1009), (4, 0x1FF9, 0x2000 + Function.Device.ConfigSize + 9), (4, 0x2FF9, 0x3000 + (4 * Queues) + 9), (4, 0x3FF0, 0x4000),
            (1, 0, table + 9), (1, PendingAt - 9, PendingAt + 17), (1, (int)Function.GetBar(1).Size - 9, (int)Function.GetBar(1).Size),
            (0, 0, IsTransitional ? (int)Function.GetBar(0).Size : 0),
        ];
        foreach (var (bar, from, to) in ranges)
        {
            for (var offset = from; offset < to; offset++)
            {
                foreach (var width in (int[])[1, 2, 4, 8])
                {
                    if (offset + width <= (int)Function.GetBar(bar).Size)
                        yield return (bar, offset, width);
                }
            }
        }
    }

    private void Bring()
    {
        Card.SetCommand(PciCommand.PCI_COMMAND_IO | PciCommand.PCI_COMMAND_MEMORY | PciCommand.PCI_COMMAND_MASTER);
        if (HasMessages)
            Card.EnableMsix(Queues + 1);
        if (_state is WidthState.Running || (IsRunning && !IsTransitional))
        {
            Card.Start(VirtioFeatures.None, HasMessages ? static queue => (ushort)(queue + 1) : null);
            Card.Driver.Select(0);
        }
        else if (IsRunning)
        {
            Span<byte> page = stackalloc byte[4];
            BinaryPrimitives.WriteUInt32LittleEndian(page, (uint)(FunctionSlot.MemoryAddress >> 12));
            Card.Slot.Memory.Write(0, new byte[0x8000]);
            Function.WriteBar(0, 18, [ACKNOWLEDGE | DRIVER]);
            Function.WriteBar(0, 8, page);
            Function.WriteBar(0, 18, [ACKNOWLEDGE | DRIVER | DRIVER_OK]);
        }
    }
}
