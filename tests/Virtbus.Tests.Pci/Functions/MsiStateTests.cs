using Virtbus.Pci;

namespace Virtbus.Tests.Pci.Functions;

public sealed class MsiStateTests
{
    private const ulong Address = 0x1_FEE00000;
    private readonly List<(ulong Address, uint Data)> _sent = [];
    private readonly List<uint> _pending = [];

    [Fact]
    public void Vector_number_stands_in_the_low_bits_of_the_data()
    {
        var msi = Make(8);
        msi.SetRegisters(Control(3), Address, 0x4047, 0);
        Assert.Equal(8, msi.Granted);
        msi.Raise(5);
        Assert.Equal([(Address, 0x4045u)], _sent);
    }

    [Theory]
    [InlineData(0, new uint[] { 0x4047, 0x4047, 0x4047, 0x4047 })]
    [InlineData(1, new uint[] { 0x4046, 0x4047, 0x4046, 0x4047 })]
    [InlineData(2, new uint[] { 0x4044, 0x4045, 0x4046, 0x4047 })]
    [InlineData(5, new uint[] { 0x4044, 0x4045, 0x4046, 0x4047 })]
    public void Vectors_beyond_those_that_software_gave_share_them(int granted, uint[] data)
    {
        var msi = Make(4);
        msi.SetRegisters(Control(granted), Address, 0x4047, 0);
        for (var i = 0; i < 4; i++)
            msi.Raise(i);
        Assert.Equal(data, _sent.Select(m => m.Data));
    }

    [Fact]
    public void Masked_vector_is_pending_and_is_sent_once_when_unmasked()
    {
        var msi = Make(4);
        msi.SetRegisters(Control(2), Address, 0x40, 0b0110);
        msi.Raise(1);
        msi.Raise(1);
        msi.Raise(2);
        msi.Raise(3);
        Assert.Equal(0b0110u, msi.Pending);
        msi.SetRegisters(Control(2), Address, 0x40, 0b0100);
        Assert.Equal([0x43u, 0x41u], _sent.Select(m => m.Data));
        Assert.Equal([0b0010u, 0b0110u, 0b0100u], _pending);
    }

    [Fact]
    public void Nothing_is_sent_or_pending_while_disabled()
    {
        var msi = Make(1);
        Assert.False(msi.Raise(0));
        msi.SetRegisters(Control(0), Address, 0x40, 1);
        Assert.True(msi.Raise(0));
        Assert.Equal(1u, msi.Pending);
        msi.SetRegisters(0, Address, 0x40, 1);
        Assert.Equal(0u, msi.Pending);
        msi.SetRegisters(Control(0), Address, 0x40, 0);
        Assert.Empty(_sent);
    }

    [Fact]
    public void Without_mask_bits_nothing_is_held()
    {
        var msi = new MsiState(2, hasMasks: false, (address, data) => _sent.Add((address, data)));
        msi.SetRegisters(Control(1), Address, 0x40, uint.MaxValue);
        msi.Raise(1);
        Assert.Equal([(Address, 0x41u)], _sent);
        Assert.Throws<ArgumentOutOfRangeException>(() => msi.Raise(2));
        Assert.Throws<ArgumentOutOfRangeException>(() => new MsiState(3, hasMasks: false, (_, _) => { }));
    }

    private static ushort Control(int granted) => (ushort)(PciMsi.PCI_MSI_FLAGS_ENABLE | (granted << PciMsi.PCI_MSI_FLAGS_QSIZE_SHIFT));

    private MsiState Make(int vectors) => new(vectors, hasMasks: true, (address, data) => _sent.Add((address, data)), _pending.Add);
}
