using System.Text;
using Virtbus.Platform;
using Virtbus.Wire.VfioUser;
using static Virtbus.Tests.WireMessages;

namespace Virtbus.Tests.Wire;

/// <summary>What VERSION's text says, and what it may not say.</summary>
public sealed class VfioUserCapabilitiesTests
{
    private static readonly VfioUserCapabilities _none = new();

    private static Errno Parse(string text, out VfioUserCapabilities capabilities)
    {
        Assert.Equal(VfioUserCapabilities.TryParse(Encoding.UTF8.GetBytes(text), out capabilities, out var fault), fault == Fault.None);
        return fault.Errno;
    }

    private static string Of(string capability) => "{\"capabilities\":{" + capability + "}}\0";

    [Fact]
    public void What_is_left_out_has_the_protocols_default()
    {
        Assert.Equal((1, 1048576UL, 65535UL, 4096UL, false, false, false, -1), (_none.MaxDescriptors, _none.MaxDataTransfer, _none.MaxDmaMaps, _none.PageSizes,
            _none.WriteMultiple, _none.Migration, _none.TwinSocket, _none.TwinIndex));
        foreach (var text in new[]
        {
            "", "\0", "\0 no JSON", "{}\0", "{}\0 no JSON", " {} \t\r\n\0", "{\"capabilities\":{}}\0", "{\"abilities\":{\"pgsizes\":1}}\0", Of("\"later\":[{}]"),
            Of("\"twin_socket\":{}"), Of("\"twin_socket\":{\"fd_index\":99}"), Of("\"twin_socket\":{\"supported\":false}"),
        })
            Assert.Equal((text, Errno.None, _none), (text, Parse(text, out var capabilities), capabilities));
    }

    [Fact]
    public void Each_capability_is_what_it_says()
    {
        foreach (var (text, expected) in new[]
        {
            ("\"max_msg_fds\":16", _none with { MaxDescriptors = 16 }),
            ("\"max_msg_fds\":0", _none with { MaxDescriptors = 0 }),
            ("\"max_msg_fds\":33", _none with { MaxDescriptors = 32 }),
            ("\"max_msg_fds\":18446744073709551615", _none with { MaxDescriptors = 32 }),
            ("\"max_data_xfer_size\":1", _none with { MaxDataTransfer = 1 }),
            ("\"max_data_xfer_size\":18446744073709551615", _none with { MaxDataTransfer = ulong.MaxValue }),
            ("\"max_dma_maps\":0", _none with { MaxDmaMaps = 0 }),
            ("\"max_dma_maps\":7", _none with { MaxDmaMaps = 7 }),
            ("\"pgsizes\":12288", _none with { PageSizes = 12288 }),
            ("\"write_multiple\":true", _none with { WriteMultiple = true }),
            ("\"write_multiple\":true,\"write_multiple\":false", _none),
            ("\"migration\":{}", _none with { Migration = true }),
            ("\"migration\":{\"pgsize\":8192,\"max_bitmap_size\":\"any\"}", _none with { Migration = true }),
            ("\"twin_socket\":{\"supported\":true}", _none with { TwinSocket = true }),
            ("\"twin_socket\":{\"supported\":true,\"fd_index\":0}", _none with { TwinSocket = true, TwinIndex = 0 }),
            ("\"twin_socket\":{\"fd_index\":31,\"supported\":false}", _none with { TwinIndex = 31 }),
            ("\"later\":1,\"max_msg_fds\":2,\"pgsizes\":8192", _none with { MaxDescriptors = 2, PageSizes = 8192 }),
        })
            Assert.Equal((text, Errno.None, expected), (text, Parse(Of(text), out var capabilities), capabilities));
        Assert.Equal(Errno.None, Parse(QemuText + "\0", out var qemu));
        Assert.Equal(_none with { MaxDescriptors = 16, WriteMultiple = true, Migration = true }, qemu);
    }

    [Fact]
    public void What_a_capability_cannot_be_is_refused()
    {
        foreach (var name in new[] { "max_msg_fds", "max_data_xfer_size", "max_dma_maps", "pgsizes" })
        {
            foreach (var value in new[] { "-1", "1.5", "\"4096\"", "true", "null", "{}", "18446744073709551616" })
                Assert.Equal((name, value, Errno.EINVAL), (name, value, Parse(Of($"\"{name}\":{value}"), out _)));
        }

        foreach (var text in new[]
        {
            "\"max_data_xfer_size\":0", "\"pgsizes\":0", "\"pgsizes\":6144", "\"pgsizes\":4095", "\"pgsizes\":0,\"max_msg_fds\":1", "\"write_multiple\":1", "\"write_multiple\":null",
            "\"migration\":1", "\"migration\":true", "\"migration\":{\"pgsize\":0}", "\"migration\":{\"pgsize\":6144}", "\"migration\":{\"pgsize\":\"4096\"}",
            "\"twin_socket\":true", "\"twin_socket\":{\"supported\":1}", "\"twin_socket\":{\"supported\":null}", "\"twin_socket\":{\"supported\":true,\"fd_index\":32}",
            "\"twin_socket\":{\"supported\":true,\"fd_index\":-1}", "\"twin_socket\":{\"supported\":true,\"fd_index\":\"0\"}", "\"max_msg_fd\\ud800\":1",
        })
            Assert.Equal((text, Errno.EINVAL), (text, Parse(Of(text), out _)));
    }

    [Theory]
    [InlineData("{}")]
    [InlineData("{\"capabilities\":{}}")]
    [InlineData("{\0")]
    [InlineData("x\0")]
    [InlineData(" \0")]
    [InlineData("{} x\0")]
    [InlineData("{}{}\0")]
    [InlineData("{}}\0")]
    [InlineData("[]\0")]
    [InlineData("1\0")]
    [InlineData("{\"capabilities\":[]}\0")]
    [InlineData("{\"capabilities\":null}\0")]
    public void What_is_no_object_or_does_not_end_is_refused(string text) => Assert.Equal(Errno.EINVAL, Parse(text, out _));

    [Fact]
    public void Text_is_what_the_other_side_reads_and_fits_into_QEMUs_reply()
    {
        const string Numbers = "\"max_msg_fds\":1,\"max_data_xfer_size\":1048576,\"max_dma_maps\":65535,\"pgsizes\":4096";
        foreach (var (ours, text) in new[]
        {
            (_none, Numbers),
            (_none with { MaxDescriptors = 16, MaxDataTransfer = 5, MaxDmaMaps = 6, PageSizes = 8192 }, "\"max_msg_fds\":16,\"max_data_xfer_size\":5,\"max_dma_maps\":6,\"pgsizes\":8192"),
            (_none with { WriteMultiple = true }, Numbers + ",\"write_multiple\":true"),
            (_none with { Migration = true }, Numbers + ",\"migration\":{\"pgsize\":4096}"),
            (_none with { TwinSocket = true }, Numbers + ",\"twin_socket\":{\"supported\":true}"),
            (_none with { TwinSocket = true, TwinIndex = 0 }, Numbers + ",\"twin_socket\":{\"supported\":true,\"fd_index\":0}"),
        })
        {
            Assert.Equal(Of(text), Encoding.UTF8.GetString(ours.ToText()));
            Assert.Equal((Errno.None, ours), (Parse(Of(text), out var read), read));
        }

        // What QEMU is told: its own text without the twin socket.
        Assert.InRange((_none with { MaxDescriptors = 16, WriteMultiple = true, Migration = true }).ToText().Length, 1, VfioUserCapabilities.MaxReplyText);
    }
}
