using Virtbus.Hardware.Probe;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Drivers.VfioPci;

/// <summary>Whose a descriptor of a user's eventfd is, and for how long. They are counted for the whole process, so nothing else runs meanwhile.</summary>
[Collection(nameof(Alone))]
public sealed class VfioPciEventFdTests
{
    private const uint Intx = 0, Msi = 1, MsiX = 2, Err = 3, Req = 4;

    [Theory]
    [InlineData(Intx)]
    [InlineData(Msi)]
    [InlineData(MsiX)]
    [InlineData(Err)]
    [InlineData(Req)]
    public async Task Eventfd_that_is_replaced_is_closed(uint index)
    {
        using var user = await OpenAsync();
        using var first = new EventFd();
        using var second = new EventFd();
        user.SetTrigger(index, 0, first);
        var before = Kernel.DescriptorsBefore();
        for (var i = 0; i < 32; i++)
            user.SetTrigger(index, 0, i % 2 == 0 ? second : first);
        Assert.Equal(before, Kernel.Descriptors);
        // None in its place is one less.
        user.SetTrigger(index, 0, (EventFd?)null);
        Assert.Equal(before - 1, Kernel.Descriptors);
    }

    [Fact]
    public async Task Eventfds_that_unmask_the_line_and_stand_for_a_doorbell_are_closed_when_they_are_replaced()
    {
        using var user = await OpenAsync();
        using var signal = new EventFd();
        user.SetTrigger(Intx, 0, signal);
        var doorbell = Assert.Single(user.Handle.GetDoorbells(0));
        Replace();
        var before = Kernel.DescriptorsBefore();
        for (var i = 0; i < 16; i++)
            Replace();
        Assert.Equal(before, Kernel.Descriptors);

        void Replace()
        {
            user.Set(VfioIrqSetFlags.DataEventFd | VfioIrqSetFlags.ActionUnmask, Intx, 0, 1, signal);
            Assert.True(user.Handle.TryAttachDoorbell(0, doorbell, signal, out var fault), fault.Message);
        }
    }

    private static async Task<PciUser> OpenAsync()
    {
        var world = await VfioPciWorld.NewAsync();
        return VfioPciWorld.Open(await world.PlugAsync(new ScratchFunction()));
    }
}
