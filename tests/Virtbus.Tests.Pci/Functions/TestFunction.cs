using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Tests.Pci.Config;

namespace Virtbus.Tests.Pci.Functions;

/// <summary>A function that shows what the base class offers to models.</summary>
internal sealed class TestFunction(ConfigLayout layout) : PciPhysicalFunction(layout)
{
    internal List<PciResetKind> Resets { get; } = [];

    internal List<(int Bar, ulong Offset, int Length)> Reads { get; } = [];

    internal List<(int Bar, ulong Offset, byte[] Data)> Writes { get; } = [];

    internal List<ConfigEffects> Effects { get; } = [];

    internal Action<PciResetKind>? ResetAction { get; set; }

    internal bool RefusesVirtualFunctions { get; set; }

    internal PciInterruptMode Mode => InterruptMode;

    internal bool IsRecording { get; set; } = true;

    internal void Interrupt(bool asserted) => SetInterrupt(asserted);

    internal bool Message(int vector) => RaiseMessage(vector);

    internal bool MsiMessage(int vector) => RaiseMsi(vector);

    internal bool CanDoDma()
    {
        using var use = UsePort();
        return use.Dma is not null;
    }

    internal void WithDma(Action action)
    {
        using var use = UsePort();
        Assert.NotNull(use.Dma);
        action();
    }

    internal void Die() => Lose();

    protected override PciVirtualFunction CreateVirtualFunction(int index) =>
        RefusesVirtualFunctions && index == 2 ? throw new VirtbusException(Errno.ENOMEM, "The host has no room.") : new TestVirtualFunction(this, index);

    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination)
    {
        if (IsRecording)
            Reads.Add((bar, offset, destination.Length));
        destination.Fill(0x5A);
    }

    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        if (IsRecording)
            Writes.Add((bar, offset, source.ToArray()));
    }

    protected override void OnReset(PciResetKind kind)
    {
        Resets.Add(kind);
        ResetAction?.Invoke(kind);
    }

    protected override void OnConfigChanged(int offset, int length, ConfigEffects effects)
    {
        if (IsRecording)
            Effects.Add(effects);
    }

    private sealed class TestVirtualFunction(TestFunction physical, int index) : PciVirtualFunction(physical, index, Layouts.Virtual)
    {
        protected override void ReadRegister(int bar, ulong offset, Span<byte> destination) => destination.Fill((byte)Index);

        protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
        {
        }

        protected override void OnReset(PciResetKind kind)
        {
        }
    }
}
