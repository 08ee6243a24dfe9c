
namespace Virtbus.Tests.Trust;

/// <summary>Half a minute of it; the program does it as long as is wanted: <c>Virtbus.Tests.Trust --churn SECONDS [SEED]</c>.</summary>
[Collection("whole daemons under load")]
public sealed class ChurnTests(ITestOutputHelper output)
{
    private const int UsualSeed = 11;

    [Fact]
    public async Task Half_a_minute_of_good_bad_and_random_users_on_all_sockets_leaves_the_daemon_as_it_was()
    {
        await using var churn = new Churn(TimeSpan.FromSeconds(30), UsualSeed, output.WriteLine);
        Assert.Empty(await churn.RunAsync());
    }
}
