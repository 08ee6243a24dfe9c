using Virtbus.Platform;
using Virtbus.Transports.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserCommand;
using static Virtbus.Tests.WireMessages;

namespace Virtbus.Tests.Transports.VfioUser;

/// <summary>What QEMU 11.1.3 sends from its start to the guest's driver, and with a guest's IOMMU, in the order that was recorded.</summary>
[Collection(WireCollection.Name)]
public sealed class VfioUserQemuTests
{
    [Theory]
    [InlineData(true, false)]
    [InlineData(false, false)]
    [InlineData(true, true)]
    public void Start_of_a_machine_goes_through(bool shared, bool headerByHeader)
    {
        using var fixture = new WireFixture(new VfioUserServerOptions { HeaderByHeader = headerByHeader });
        using var client = new WireClient(fixture.Socket);
        foreach (var step in QemuRecording.Start(shared))
        {
            var ids = new List<(ushort Id, QemuMessage Message)>();
            // What it sends without waiting goes out together; the answers come together.
            foreach (var message in step)
                ids.Add((Send(client, message), message));
            foreach (var (id, message) in ids.Where(sent => (sent.Message.Flags & 0x10) == 0))
            {
                using var reply = client.ReceiveReply(id);
                Assert.NotNull(reply);
                Assert.True(reply.Error == Errno.None, $"{message.Command} was refused with {reply.Error}");
                // QEMU gives up on an answer that has no room in its request's buffer, or more descriptors than it expects.
                Assert.InRange(reply.Payload.Length, 0, Math.Max(message.Payload.Length, message.Room));
                Assert.InRange(reply.Descriptors.Count, 0, message.Command == DEVICE_GET_REGION_INFO ? 1 : 0);
            }
        }

        Assert.Contains("reset", fixture.Device.Calls);
        Assert.True(fixture.Device.IsBound(2, 0));
        Assert.Equal(0, fixture.Server.BadMessages);
    }

    private static ushort Send(WireClient client, QemuMessage message) => message.Descriptor switch
    {
        QemuDescriptor.Memory => client.Send(message.Command, message.Payload, message.Flags, client.File),
        QemuDescriptor.EventFd => client.Send(message.Command, message.Payload, message.Flags, client.Signal.Descriptor),
        _ => client.Send(message.Command, message.Payload, message.Flags),
    };
}
