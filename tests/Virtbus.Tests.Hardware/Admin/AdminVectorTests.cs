using Virtbus.Ethernet;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioNet;
using Virtbus.Virtio;
using static Virtbus.Virtio.VirtioLegacyConfig;

namespace Virtbus.Tests.Hardware.Admin;

/// <summary>Legacy registers while the function's user switches its vectors on and off: where the configuration begins moves.</summary>
public sealed class AdminVectorTests : IDisposable
{
    private static readonly byte[] Address = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55];

    private readonly VirtioNetDevice _device = new("vf", new EthernetSwitch(), new VirtioNetOptions(0x021122334455));
    private readonly SwitchedPort _port = new();
    private readonly VirtioConfigRegisters _registers;
    private readonly VirtioLegacyRegisters _legacy;

    public AdminVectorTests()
    {
        _registers = new VirtioConfigRegisters(_device, _port);
        _legacy = new VirtioLegacyRegisters(_device, _registers, _port, new VirtioInterruptStatus(_port), new VirtioDoorbells(_device, null, static (_, _) => { }));
    }

    public void Dispose() => _device.Dispose();

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Field_of_the_configuration_is_read_where_it_is(bool isOn)
    {
        _port.IsMsixEnabled = isOn;
        var bytes = new byte[6];
        Assert.True(_legacy.TryReadField(isConfig: true, 0, bytes));
        Assert.Equal(Address, bytes);
    }

    [Fact]
    public void Vector_that_is_written_is_none_of_the_configuration()
    {
        _port.IsMsixEnabled = true;
        Assert.True(_legacy.TryWriteField(isConfig: false, VIRTIO_MSI_CONFIG_VECTOR, [3, 0]));
        Assert.Equal(3, _registers.ConfigVector);
        _port.IsMsixEnabled = true;
        var bytes = new byte[2];
        Assert.True(_legacy.TryReadField(isConfig: false, VIRTIO_MSI_CONFIG_VECTOR, bytes));
        Assert.Equal([3, 0], bytes);
        _port.IsMsixEnabled = false;
        Assert.False(_legacy.TryReadField(isConfig: false, VIRTIO_MSI_CONFIG_VECTOR, bytes));
        _port.IsMsixEnabled = false;
        Assert.False(_legacy.TryWriteField(isConfig: false, VIRTIO_MSI_CONFIG_VECTOR, [1, 0]));
        Assert.Equal(3, _registers.ConfigVector);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Field_of_the_configuration_that_is_written_is_no_vector(bool isOn)
    {
        _port.IsMsixEnabled = isOn;
        Assert.True(_legacy.TryWriteField(isConfig: true, 0, [1, 0]));
        Assert.Equal(VirtioCommonConfig.VIRTIO_MSI_NO_VECTOR, _registers.ConfigVector);
    }
}
