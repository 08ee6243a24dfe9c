using System.Diagnostics;
using System.Globalization;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Trust;

/// <summary>
/// Users, daemons and devices end at random moments under use, and everything is reusable afterwards. Set VIRTBUS_SEED to run another sequence
/// than the usual one, VIRTBUS_DEATHS to run a longer one.
/// </summary>
[Collection("whole daemons under load")]
public sealed class DeathTests(ITestOutputHelper output)
{
    private const int Deaths = 200;
    private const int UsualSeed = 3;

    [Fact]
    public async Task Everything_is_reusable_after_users_daemons_and_devices_died_200_times_under_use()
    {
        var seed = Number("VIRTBUS_SEED", UsualSeed);
        var deaths = Number("VIRTBUS_DEATHS", Deaths);
        await using var graveyard = new Graveyard();
        await graveyard.BeginAsync();
        var start = Stopwatch.GetTimestamp();
        for (var step = 0; step < deaths; step++)
        {
            var random = new Random(unchecked((seed * 1_000_003) + step));
            try
            {
                await graveyard.StepAsync(random);
            }
            catch (Exception e)
            {
                throw new InvalidOperationException($"Seed {seed}, step {step}, {graveyard.Doing}: {e.Message}\n{graveyard.Log}", e);
            }
        }
        output.WriteLine($"{deaths} deaths in {Stopwatch.GetElapsedTime(start).TotalSeconds:0} s: {graveyard.Counts}");
        await graveyard.EndAsync();
    }

    private static int Number(string variable, int usual) =>
        Environment.GetEnvironmentVariable(variable) is { Length: > 0 } text ? int.Parse(text, CultureInfo.InvariantCulture) : usual;
}
