using Virtbus.Platform;
using Virtbus.Wire.VfioUser;
using static Virtbus.Tests.WireMessages;
using static Virtbus.Wire.VfioUser.VfioUserCommand;

namespace Virtbus.Tests.Wire;

/// <summary>The header's flags, a message's descriptors, and which messages have any.</summary>
public sealed class VfioUserMessageTests
{
    [Theory]
    [InlineData(0u, 0u, false, true, false)]
    [InlineData(1u, 1u, true, true, false)]
    [InlineData(0x10u, 0u, false, false, false)]
    [InlineData(0x21u, 1u, true, true, true)]
    [InlineData(0x20u, 0u, false, true, true)]
    [InlineData(2u, 2u, false, true, false)]
    [InlineData(0xffffffd1u, 1u, true, false, false)]
    [InlineData(0xffffffffu, 15u, false, false, true)]
    public void Flags_say_what_the_message_is(uint flags, uint type, bool isReply, bool wantsReply, bool isError)
    {
        var message = new VfioUserMessage(Message(REGION_READ, Words(0x20, 7, 8), flags, 0xfedc), null);
        Assert.Equal((type, isReply, wantsReply, isError), (message.Type, message.IsReply, message.WantsReply, message.IsError));
        Assert.Equal((0xfedc, REGION_READ, flags, 0u), (message.Id, message.Command, message.Flags, message.ErrorNumber));
        Assert.Equal((0x20u, 7u, 12), (message.ArgSize, message.Read<uint>(4), message.Payload.Length));
    }

    [Fact]
    public void Descriptors_are_taken_from_the_front_or_all_at_once()
    {
        using var first = new EventFd();
        using var second = new EventFd();
        var bytes = Message(DMA_MAP, []);
        List<FileDescriptor> taken = [];
        new VfioUserMessage(bytes, null).TakeDescriptors(taken);
        Assert.Empty(taken);
        Assert.Equal(0, new VfioUserMessage(bytes, null).DescriptorCount);
        List<FileDescriptor> list = [first.Descriptor, second.Descriptor];
        var message = new VfioUserMessage(bytes, list);
        Assert.Equal(2, message.DescriptorCount);
        Assert.Same(second.Descriptor, message.Descriptor(1));
        Assert.Same(first.Descriptor, message.TakeDescriptor());
        Assert.Equal(1, message.DescriptorCount);
        message.TakeDescriptors(taken);
        Assert.Equal([second.Descriptor], taken);
        Assert.Empty(list);
    }

    [Fact]
    public void Id_is_written_over_without_the_rest()
    {
        var bytes = Message(REGION_READ, Words(1), id: 1);
        VfioUserMessage.WriteId(bytes, 0xabcd);
        Assert.Equal("cdab0900140000000000000000000000" + "01000000", Convert.ToHexStringLower(bytes));
    }

    [Fact]
    public void Only_some_messages_have_descriptors()
    {
        VfioUserCommand[] requests = [DMA_MAP, DEVICE_SET_IRQS], replies = [VERSION, DEVICE_GET_REGION_INFO, DEVICE_GET_REGION_IO_FDS];
        for (var number = 0; number <= 20; number++)
        {
            var command = (VfioUserCommand)number;
            Assert.Equal((command, requests.Contains(command)), (command, VfioUserProtocol.UsesDescriptors(command, isReply: false)));
            Assert.Equal((command, replies.Contains(command)), (command, VfioUserProtocol.UsesDescriptors(command, isReply: true)));
            Assert.Equal((command, requests.Contains(command) || command == DMA_UNMAP), (command, VfioUserProtocol.MayCarryDescriptors(command, isReply: false)));
            Assert.Equal((command, replies.Contains(command)), (command, VfioUserProtocol.MayCarryDescriptors(command, isReply: true)));
        }
    }

    [Theory]
    [InlineData(0UL, 4096UL, 0UL)]
    [InlineData(1UL, 4096UL, 8UL)]
    [InlineData(64 * 4096UL, 4096UL, 8UL)]
    [InlineData((64 * 4096UL) + 1, 4096UL, 16UL)]
    [InlineData(128 * 4096UL, 4096UL, 16UL)]
    [InlineData(129 * 8192UL, 8192UL, 24UL)]
    [InlineData(ulong.MaxValue, 4096UL, 1UL << 49)]
    public void Bitmap_has_a_bit_a_page_in_words_of_64(ulong size, ulong pageSize, ulong bytes) => Assert.Equal(bytes, VfioUserProtocol.BitmapSize(size, pageSize));
}
